"""What to look for in the gallery: sentences that follow from the numbers in data/gallery/index.json.

Each is asserted first, so that a gallery of which it is no longer true is not finished, and rounded so that it stays
true: "at least" down, "at most" up.
"""

import math
import operator
from statistics import mean

CLASS_SPECIFIC = ("gradient", "CAM", "Shap-CAM", "LIME")


def observations(index):
    looks = (cat_or_cup, second_class, never_looked, fewer_pictures, late_layers, next_to_nothing)
    return [look(index) for look in looks]


def at_least(value, digits=2):
    return f"{math.floor(10**digits * value) / 10**digits:.{digits}f}"


def at_most(value):
    return f"{math.ceil(100 * value) / 100:.2f}"


def frames(index, **what):
    """The records of these frames."""
    return [frame for frame in index["frames"] if what.items() <= frame.items()]


def alike(index, what, maps):
    """The correlations of these maps, for each network as a list."""
    table = index["correlations"][what][maps]
    return {
        network: list(row.values()) if isinstance(row, dict) else row
        for network, row in table.items()
    }


def all_of(*tables):
    return [value for table in tables for row in table.values() for value in row]


def cat_or_cup(index):
    def in_cats_half(method, thing):
        return [
            frame["maps"][method]["upper"]
            for frame in frames(index, explorer="cat_or_cup", asked_for=thing)
        ]

    cat, cup = (in_cats_half("Shap-CAM", thing) for thing in ("tiger cat", "cup"))
    guided = in_cats_half("guided backprop", "cup")
    blind = zip(
        in_cats_half("deconvnet", "tiger cat"), in_cats_half("deconvnet", "cup"), strict=True
    )
    shift = max(abs(a - b) for a, b in blind)
    assert min(cat) > 0.9 and max(cup) < 0.2 and min(guided) > 0.5 and shift < 0.02
    return (
        f"**The cat or the cup?** (Figure 2) Asked for the cat, Shap-CAM puts {at_least(min(cat))} or more of its "
        f"energy in the cat's half, in all three networks. Asked for the cup, it leaves at most {at_most(max(cup))} "
        f"there. Guided backprop stays with the cat: {at_least(min(guided))} or more of its energy when the question "
        f"is the cup. Deconvnet hardly notices the question; its share moves by {at_most(shift)} at most."
    )


def second_class(index):
    second = {method: all_of(alike(index, "top and second class", method))
              for method in ("deconvnet", "guided backprop", *CLASS_SPECIFIC)}  # fmt: skip
    stiff, low = (
        min(second["deconvnet"] + second["guided backprop"]),
        {m: min(second[m]) for m in CLASS_SPECIFIC},
    )
    assert stiff > 0.95 and max(low.values()) < 0.5
    lowest = ", ".join(f"{method} {value:.2f}" for method, value in low.items())
    return (
        "**Another class, the same map?** (Figure 1) For a network's second class, deconvnet and guided backprop "
        f"draw nearly the map of its first again: they correlate by {at_least(stiff)} or more, for every network and "
        "photograph. Four others tell classes apart where there is something to tell apart; their lowest "
        f"correlations: {lowest}. Where the second class is a near relative of the first, such as another kind of "
        "cat, much the same map is no fault."
    )


def never_looked(index):
    deconvnet, guided = (
        alike(index, "two photographs", method) for method in ("deconvnet", "guided backprop")
    )
    same, seen = min(deconvnet["mobilenet_v2"]), max(guided["mobilenet_v2"])
    other = max(deconvnet["squeezenet1_1"] + deconvnet["resnet18"])
    assert same > 0.99 and max(other, seen) < 0.3
    return (
        "**A map that never looked.** (Figure 1) Deconvnet on MobileNet-v2 draws one pattern for all photographs: "
        f"any two of its maps correlate by {at_least(same, 4)} or more. This network has no max pooling, whose "
        "switches could carry something of the picture back. On the other two, which have it, deconvnet's maps "
        f"correlate by {at_most(other)} at most, and guided backprop's on MobileNet-v2 by {at_most(seen)}."
    )


def fewer_pictures(index):
    def pair(a, b):
        return all_of(alike(index, "two methods", f"{a}, {b}"))

    twins, cousins = min(pair("CAM", "Grad-CAM")), min(pair("LRP", "deep Taylor"))
    fine, coarse = pair("Guided Grad-CAM", "guided backprop"), pair("Guided Grad-CAM", "Grad-CAM")
    closer = sum(map(operator.gt, fine, coarse))
    assert (
        twins > 0.99999
        and cousins > 0.9
        and mean(fine) > mean(coarse) + 0.2
        and closer > 0.8 * len(fine)
    )
    return (
        "**Eleven names, fewer pictures.** (Figure 1) All three networks end in a global average, so CAM and "
        "Grad-CAM differ by a factor only. Seen from afar, where the energy lies in 14 by 14 cells, LRP with its "
        f"default rules and deep Taylor correlate by {at_least(cousins)} or more. Guided Grad-CAM lies where guided "
        f"backprop lies ({mean(fine):.2f} on average) rather than where Grad-CAM does ({mean(coarse):.2f}), in "
        f"{closer} of {len(fine)} cases."
    )


def late_layers(index):
    def moved(layer):
        cat, cup = (frames(index, explorer="layers", layer=layer, question=f"cat and coffee: {thing}")
                    for thing in ("tiger cat", "cup"))  # fmt: skip
        upper = [
            [frame["maps"]["Grad-CAM"]["upper"] for frame in of_thing] for of_thing in (cat, cup)
        ]
        return [a - b for a, b in zip(*upper, strict=True)]

    late, early = moved(4), [abs(share) for share in moved(1)]
    sides = [
        [frame["shape"][1] for frame in frames(index, explorer="layers", layer=layer)]
        for layer in (4, 1)
    ]
    assert min(late) > max(early) and all(
        8 * last <= first for last, first in zip(*sides, strict=True)
    )
    return (
        "**Late layers know which class was asked.** (Figure 3) From the cup to the cat, Grad-CAM at the "
        f"last layer moves {at_least(min(late))} or more of its energy into the cat's half. At the earliest layer "
        f"shown it moves {at_most(max(early))} at most, though its map has at least eight times as many rows."
    )


def next_to_nothing(index):
    def arrives(network):
        return [frame["maps"]["epsilon_plus"]["sum"] / frame["score"]
                for frame in frames(index, explorer="rules", network=network)]  # fmt: skip

    most, least = max(arrives("mobilenet_v2")), min(arrives("squeezenet1_1"))
    assert 0 <= most < 0.001 and least > 0.3
    return (
        "**A map may hold next to nothing of the score.** (Figure 4) By `epsilon_plus`, LRP's default here, "
        f"{at_least(least)} or more of the score arrives at SqueezeNet's pixels, but less than a thousandth at "
        "MobileNet-v2's. Biases keep the rest. Both are drawn in full colour, so look at the number above the map."
    )

"""Write what there is to see in the gallery: sentences that follow from data/gallery/index.json.

What a sentence says is asserted first, so a gallery of which it is no longer true is not finished.
Its numbers are rounded so that it stays true: "at least" down, "at most" up.
"""

import math
import operator
from statistics import mean

CLASS_SPECIFIC = ("gradient", "CAM", "Shap-CAM", "LIME")


def observations(index):
    """The sentences, as a list.

    :param index: data/gallery/index.json as a dict
    :raises AssertionError: where one of them is not true
    """
    looks = (cat_or_cup, second_class, never_looked, fewer_pictures, late_layers, next_to_nothing)
    return [look(index) for look in looks]


def at_least(value, digits=2):
    """A number as text, rounded down."""
    return f"{math.floor(10**digits * value) / 10**digits:.{digits}f}"


def at_most(value):
    """A number as text, rounded up."""
    return f"{math.ceil(100 * value) / 100:.2f}"


def frames(index, **choice):
    """The records of the frames of a choice."""
    return [frame for frame in index["frames"] if choice.items() <= frame.items()]


def upper_shares(index, method, **choice):
    """The share of one method's energy in the upper half, the cat's, in each frame of a choice."""
    return [frame["maps"][method]["upper"] for frame in frames(index, **choice)]


def alike(index, comparison, maps):
    """The correlations of these maps: network -> list."""
    table = index["correlations"][comparison][maps]
    return {
        network: list(row.values()) if isinstance(row, dict) else row
        for network, row in table.items()
    }


def all_of(table):
    """The correlations of all networks in one list."""
    return [value for row in table.values() for value in row]


def cat_or_cup(index):
    """Which methods follow the question."""

    def in_cats_half(method, thing):
        return upper_shares(index, method, explorer="cat_or_cup", asked_for=thing)

    cat = min(in_cats_half("Shap-CAM", "tiger cat"))
    cup = max(in_cats_half("Shap-CAM", "cup"))
    guided = min(in_cats_half("guided backprop", "cup"))
    deconvnet = [in_cats_half("deconvnet", thing) for thing in ("tiger cat", "cup")]
    shift = max(abs(a - b) for a, b in zip(*deconvnet, strict=True))
    assert cat > 0.9 and cup < 0.2 and guided > 0.5 and shift < 0.02
    return (
        "**The cat or the cup?** (Figure 2) Asked for the cat, Shap-CAM of the score puts "
        f"{at_least(cat)} or more of its energy in the cat's half, in all three networks. Asked "
        f"for the cup, it leaves at most {at_most(cup)} there. Guided backprop stays with the cat: "
        f"{at_least(guided)} or more of its energy when the question is the cup. Deconvnet hardly "
        f"notices the question; its share moves by {at_most(shift)} at most."
    )


def second_class(index):
    """Which methods draw another map for another class."""

    def lowest(method):
        return min(all_of(alike(index, "top and second class", method)))

    same = min(lowest("deconvnet"), lowest("guided backprop"))
    other = {method: lowest(method) for method in CLASS_SPECIFIC}
    assert same > 0.95 and max(other.values()) < 0.5
    listed = ", ".join(f"{method} {value:.2f}" for method, value in other.items())
    return (
        "**Another class, the same map?** (Figure 1) For a network's second class, deconvnet and "
        "guided backprop draw nearly the map of its first again: they correlate by "
        f"{at_least(same)} or more, for every network and photograph. Four others tell classes "
        "apart where there is something to tell apart; their lowest correlations: "
        f"{listed}. Where the second class is a near relative of the first, such as another kind "
        "of cat, much the same map is no fault."
    )


def never_looked(index):
    """Where a map does not depend on the photograph."""
    deconvnet = alike(index, "two photographs", "deconvnet")
    guided = alike(index, "two photographs", "guided backprop")
    same = min(deconvnet["mobilenet_v2"])
    pooled = max(deconvnet["squeezenet1_1"] + deconvnet["resnet18"])
    guided_same = max(guided["mobilenet_v2"])
    assert same > 0.99 and max(pooled, guided_same) < 0.3
    return (
        "**A map that never looked.** (Figure 1) Deconvnet on MobileNet-v2 draws one pattern for "
        f"all photographs: any two of its maps correlate by {at_least(same, 4)} or more. This "
        "network has no max pooling, whose switches could carry something of the picture back. "
        "On the other two, which have it, deconvnet's maps correlate by "
        f"{at_most(pooled)} at most, and guided backprop's on MobileNet-v2 by "
        f"{at_most(guided_same)}."
    )


def fewer_pictures(index):
    """Which methods draw much the same map."""

    def pair(a, b):
        return all_of(alike(index, "two methods", f"{a}, {b}"))

    twins = min(pair("CAM", "Grad-CAM") + pair("HiResCAM", "Grad-CAM"))
    near_twins = min(pair("XGrad-CAM", "Grad-CAM"))
    cousins = min(pair("LRP", "deep Taylor"))
    fine = pair("Guided Grad-CAM", "guided backprop")
    coarse = pair("Guided Grad-CAM", "Grad-CAM")
    closer = sum(map(operator.gt, fine, coarse))
    assert twins > 0.99999 and near_twins > 0.9999 and cousins > 0.9
    assert mean(fine) > mean(coarse) + 0.2 and closer > 0.8 * len(fine)
    return (
        f"**{len(index['methods'])} names, fewer pictures.** (Figure 1) All three networks end in "
        "a global average, so CAM, Grad-CAM and HiResCAM differ by a factor only, and XGrad-CAM "
        "hardly by more. Seen from afar, where the energy lies in 14 by 14 cells, LRP with its "
        f"default rules and deep Taylor correlate by {at_least(cousins)} or more. Guided Grad-CAM "
        f"lies where guided backprop lies ({mean(fine):.2f} on average) rather than where Grad-CAM "
        f"does ({mean(coarse):.2f}), in {closer} of {len(fine)} cases."
    )


def late_layers(index):
    """How far Grad-CAM moves with the question, at the last layer and at the earliest shown."""

    def moved(layer):
        cat, cup = (
            upper_shares(
                index,
                "Grad-CAM",
                explorer="layers",
                layer=layer,
                question=f"cat and coffee: {thing}",
            )
            for thing in ("tiger cat", "cup")
        )
        return [a - b for a, b in zip(cat, cup, strict=True)]

    def rows(layer):
        return [frame["shape"][1] for frame in frames(index, explorer="layers", layer=layer)]

    late = min(moved(4))
    early = max(abs(share) for share in moved(1))
    assert late > early
    assert all(8 * last <= first for last, first in zip(rows(4), rows(1), strict=True))
    return (
        "**Late layers know which class was asked.** (Figure 3) From the cup to the cat, Grad-CAM "
        f"at the last layer moves {at_least(late)} or more of its energy into the cat's half. At "
        f"the earliest layer shown it moves {at_most(early)} at most, though its map has at least "
        "eight times as many rows."
    )


def next_to_nothing(index):
    """How much of the score LRP brings to the pixels."""

    def arrives(network):
        return [
            frame["maps"]["epsilon_plus"]["sum"] / frame["score"]
            for frame in frames(index, explorer="rules", network=network)
        ]

    most = max(arrives("mobilenet_v2"))
    least = min(arrives("squeezenet1_1"))
    assert 0 <= most < 0.001 and least > 0.3
    return (
        "**A map may hold next to nothing of the score.** (Figure 4) By `epsilon_plus`, LRP's "
        f"default here, {at_least(least)} or more of the score arrives at SqueezeNet's pixels, but "
        "less than a thousandth at MobileNet-v2's. Biases keep the rest. Both are drawn in full "
        "colour, so look at the number above the map."
    )

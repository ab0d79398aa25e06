"""Layer-wise relevance propagation (LRP): the class score, handed down to the pixels.

Source: Bach et al. 2015. The score goes down layer by layer: relevance travels where autograd's
gradient would. Each operation on the tape gets another backward pass: relevance of its output in,
relevance of its inputs out.

What happens inside a layer stands in `lrp_rules`; which layer gets which rule, in `lrp_composites`;
what happens between layers, in `lrp_operations`. `lrp_tape` finds the operations, and `lrp_layers`
makes layers of calls.
"""

import torch

from ..engine.contract import backward, isolated, no_gradient_message, run
from ..engine.tape import Tape
from ..engine.target import contributions
from ..networks import ready
from .lrp_composites import chooser
from .lrp_tape import Relevance, without_autocast


def lrp(net, x, target=None, rule="epsilon_plus", **parameters):
    """Relevance R of every pixel: how much of the class score S_c came from it.

    Source: Bach et al. 2015, doi 10.1371/journal.pone.0130140, eq. 56 to 60; composites: Montavon
    et al. 2019, doi 10.1007/978-3-030-28954-6_10. Each rule's own equation stands in `lrp_rules`.

    | rule         | parameters      | which layers                                                |
    |--------------|-----------------|-------------------------------------------------------------|
    | "0"          |                 | all                                                         |
    | "epsilon"    | epsilon=1e-6    | all                                                         |
    | "gamma"      | gamma=0.25      | all                                                         |
    | "alpha_beta" | alpha=2, beta=1 | all; alpha - beta = 1                                       |
    | "z+"         |                 | all; alpha_beta with 1 and 0, but see `rule_z_plus`         |
    | "zB"         | low, high       | the first, z+ above; bounds of the pixels, normalised       |
    | "w2", "flat" |                 | the first, z+ above                                         |

    | composite                   | first layer | convolutions | linear layers |
    |-----------------------------|-------------|--------------|---------------|
    | "epsilon_plus"              | as others   | z+           | epsilon       |
    | "epsilon_plus_flat"         | flat        | z+           | epsilon       |
    | "epsilon_alpha2_beta1"      | as others   | alpha_beta   | epsilon       |
    | "epsilon_alpha2_beta1_flat" | flat        | alpha_beta   | epsilon       |
    | "epsilon_gamma_box"         | zB          | gamma        | epsilon       |
    | "deep_taylor"               | zB          | z+           | z+            |

    Between the layers, whatever the rule:

    | operation                     | relevance                                                    |
    |-------------------------------|--------------------------------------------------------------|
    | any activation: ReLU, SiLU,   | passes unchanged, also where it is saturated                 |
    | GELU, leaky ReLU, tanh, ...   |                                                              |
    | gate: a map times a sigmoid,  | the signal takes all, the gate is a factor (Arras et al.     |
    | squeeze-and-excitation, ...   | 2017, arXiv 1706.07206). The gate is the map that came out   |
    |                               | of a sigmoid or softmax; else the one that is repeated over  |
    |                               | the other, (N, C, 1, 1); if neither is, the call is refused  |
    | factor, divisor               | passes unchanged                                             |
    | sum of maps; with a constant  | in proportion to the terms; the constant keeps its share     |
    | average, enlarging            | in proportion to what each input contributes                 |
    | max pooling, maximum          | all to the winner                                            |
    | batch norm                    | folded into the layers before it. On its own it is a layer   |
    |                               | of one weight per channel, with the rule of convolutions     |
    | layer, group, instance norm   | the deviation is held fixed, the mean is an average (Ali et  |
    |                               | al. 2022, arXiv 2202.07304)                                  |
    | on pixels before any layer    | passes unchanged; an average of pixels shares by its weights |

    Transposed convolutions are convolutions, and a product with a matrix is a linear layer. Without
    biases sum R = S_c (up to what epsilon absorbs, and see `rule_alpha_beta`). Each bias keeps its
    share of R. A network in half precision is explained in float32, and R rounded at the end.

    :param net: `Network` or nn.Module, in eval mode, made of what the tables name, and of what
        moves values about
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function f of what the network returns. R starts with S_k df/dS_k: of a class its score
    :param rule: one of the names above, or a function (kind, index, name) -> rule for each layer: a
        name, (name, {parameter: value}), or a rule of your own, a function (layer, R) -> relevance
        of the layer's inputs (`lrp_rules` says what a layer has). kind is "conv", "linear" or
        "norm" (batch norm on its own), index counts the conv and linear layers as they run (norm:
        the layer that comes next), name is the submodule's
    :param parameters: of the rules, as the table names them
    :return: (N, C, H, W), same dtype as x, signed
    :raises InputError: see `ready`; unknown rule or parameter; an operation that has no rule, with
        its place; a network that ends in a sigmoid or softmax; for zB, pixels out of their bounds;
        a rule of your own that returns something else than relevance of the layer's inputs

    >>> def flat_below(kind, index, name):
    ...     return "flat" if index == 0 else "z+"
    >>> R = xcnn.lrp(net, x, "clock", rule=flat_below)
    >>> tuple(R.shape)
    (1, 3, 128, 128)

    A rule of your own, here rule 0 with all that is negative left out:

    >>> from xcnn.methods.lrp_rules import share
    >>> def positive_only(layer, R):
    ...     return layer.back(share(R, layer.z)).clamp(min=0)
    >>> R = xcnn.lrp(net, x, "clock", rule=lambda kind, index, name: positive_only)
    >>> bool((R >= 0).all())
    True
    """
    net, x = ready(net, x)
    choose = chooser(rule, parameters, box=(net.normalise(0), net.normalise(1)))
    with isolated(grad=True), without_autocast(x.device.type):
        x = x.clone().requires_grad_()
        image = x.to(torch.promote_types(x.dtype, torch.float32)).clone()  # see `Relevance`
        with Tape(Relevance(net.module, choose, image)):
            out = run(net.module, image)
        values, relevance = contributions(out, target, net, len(x))
        return backward(values, x, no_gradient_message(net), start=relevance)


def deep_taylor(net, x, target=None, low=None, high=None):
    """Deep Taylor decomposition: LRP with z+ in every layer and zB at the pixels.

    Each rule is a Taylor expansion of a neuron. Source: Montavon et al. 2017, arXiv 1512.02479,
    z+-rule and zB-rule. Arguments, shape and errors as in `lrp`.

    :param low, high: bounds of the pixels, as for the rule "zB"; None: black and white, normalised

    >>> R = xcnn.deep_taylor(net, x, "clock")
    >>> tuple(R.shape)
    (1, 3, 128, 128)
    """
    return lrp(net, x, target, "deep_taylor", low=low, high=high)

"""`doctor`: why does this map look wrong? The usual reasons, one by one.

Each step looks at one thing and says what it found and what to do. The first steps are in
`network`, those about the map in `maps`. A step that cannot be done ends the checkup: what stands
in its way is mended first. The network stays as it is, its mode included.
"""

import warnings
from dataclasses import dataclass

from ..errors import InputError, one_of
from ..methods import LABELS
from ..networks import Network, as_network
from . import maps, network
from .patient import LOOK, NOT_TRIED, WRONG, Patient, in_eval_mode, what_and_remedy

STEPS = network.STEPS | maps.STEPS
VERDICT_WIDTH = len(NOT_TRIED)
NAME_WIDTH = 2 + max(map(len, STEPS))


@dataclass(frozen=True)
class Finding:
    """What one step of the checkup found.

    :param step: what was looked at
    :param verdict: "ok"; "look": it may be right, decide yourself; "wrong"; "not tried"
    :param says: what was found
    :param remedy: what to do, "" where it is ok

    >>> print(xcnn.doctor(net, x)[0])
    ok  mode  every part is in eval mode
    """

    step: str
    verdict: str
    says: str
    remedy: str = ""

    def __str__(self):
        line = f"{self.verdict:{VERDICT_WIDTH}}  {self.step:{NAME_WIDTH}}{self.says}".rstrip()
        if not self.remedy:
            return line
        return f"{line}\n{'':{VERDICT_WIDTH + 2 + NAME_WIDTH}}-> {self.remedy}"


class Checkup(list):
    """All findings, in the order of the steps. Printed, a line each and the remedies below.

    :param iterable: of `Finding`

    >>> len(xcnn.doctor(net, x))
    17
    """

    @property
    def problems(self):
        """The findings that are not ok.

        >>> xcnn.doctor(net, x).problems
        []
        """
        return [finding for finding in self if finding.verdict in (LOOK, WRONG)]

    def __repr__(self):
        return "\n".join(map(str, self))


def doctor(net, x, target=None, method="grad_cam", layer=None):
    """Why does a map look wrong? The usual reasons, with what to do about each.

    Looked at are the network (its mode, weights, scores, ReLUs), the images (normalisation, size),
    the question (the class) and the map: whether it is 0, and whether it changes with the class,
    the weights and the picture. That takes about ten maps of the method.

    :param net: `Network` or nn.Module, in any mode; it stays as it is
    :param x: (N, C, H, W); of several images the first is looked at
    :param target: as in `gradient`
    :param method: the name of the method whose map looks wrong, see `METHODS`
    :param layer: as in `grad_cam`, for a method that takes maps of a layer
    :return: `Checkup`, a list of `Finding`; print it to read it
    :raises InputError: something that is not a network; an unknown method

    >>> print(xcnn.doctor(net, 255 * x).problems[0])
    wrong  normalisation  x reaches 601, so pixels from 0 to 255 went in unscaled
        -> make x by net.preprocess(image)
    """
    one_of("method", method, LABELS)
    is_bare = not isinstance(net, Network)
    patient = Patient(as_network(net), x, target, method, layer, is_bare)
    findings = Checkup()
    with in_eval_mode(patient), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is a finding
        can_go_on = True
        for name, step in STEPS.items():
            if can_go_on:
                finding, can_go_on = _tried(name, step, patient)
                findings.append(finding)
            else:
                findings.append(Finding(name, NOT_TRIED, ""))
    return findings


def _tried(name, step, patient):
    """The finding of one step, and whether the next steps make sense: it could be done."""
    try:
        return Finding(name, *step(patient)), True
    except InputError as error:
        says, remedy = what_and_remedy(error)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        says = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        remedy = "call the network with x by itself; where that works, please report this"
    return Finding(name, WRONG, says, remedy), False

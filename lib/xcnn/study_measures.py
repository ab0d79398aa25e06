"""What a study measures of a map: the columns of a record that say how it scored."""

import math

from .evaluate import (
    box_iou,
    energy_concentration,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    rival_energy,
)
from .sanity import masked

DILATE = 0.2  # the masks grow by this fraction, as in `energy_concentration`
NOTHING_FOR_THE_CLASS = "nothing for the class"  # a map that is negative everywhere, or 0


def measures(net, x, targets, R, E, grown, rival=None):
    """What one method scores in a few questions.

    P, mass, ranks, pointing, iou: measures of the evidence E, see ``xcnn.evaluate``. left: the
    probability of the class where only the evidence stays in the picture, see `masked`. P_raw: P of
    the map as it is. rival: the share of the energy on another object, see `rival_energy`. status:
    "ok", "no energy" of a map that is 0, or "nothing for the class". What has no value is None.

    :param net: `Network`
    :param x: (N, C, H, W)
    :param targets: one class per image
    :param R, E: (N, C, H, W), (N, 1, H, W): the map and its evidence, see `evidence`
    :param grown: (N, H, W) bool, the masks of the objects, grown by `DILATE`
    :param rival: the same of other objects, or None
    :return: list of dicts, numbers of six digits

    >>> E = xcnn.grad_cam(net, x, 3)
    >>> mask = scene.mask("clock")[None]
    >>> (row,) = xcnn.study_measures.measures(net, x, [3], E, E, mask)
    >>> row["pointing"], row["status"]
    (1.0, 'ok')
    """
    columns = {
        "P": energy_concentration(E, grown, dilate=0),
        "mass": relevance_mass_accuracy(E, grown),
        "ranks": relevance_rank_accuracy(E, grown),
        "pointing": pointing_game(E, grown, tolerance=0).double(),
        "iou": box_iou(E, grown),
        "left": net.predict(masked(x, E))[range(len(x)), targets],
        "P_raw": energy_concentration(R, grown, dilate=0),
    }
    if rival is not None:
        columns["rival"] = rival_energy(E, grown, rival, dilate=0)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [_measured(dict(zip(columns, row, strict=True))) for row in rows]


def _measured(values):
    """The measures of one map, with its status."""
    if math.isnan(values["P_raw"]):
        return {"status": "no energy"}
    if math.isnan(values["P"]):
        return {"P_raw": short(values["P_raw"]), "status": NOTHING_FOR_THE_CLASS}
    return {**{name: short(value) for name, value in values.items()}, "status": "ok"}


def short(value):
    """A number with six digits: enough for any mean, and a third of the file.

    :param value: float
    :return: float; None for nan

    >>> xcnn.study_measures.short(1 / 3), xcnn.study_measures.short(float("nan"))
    (0.333333, None)
    """
    return None if math.isnan(value) else float(f"{value:.6g}")

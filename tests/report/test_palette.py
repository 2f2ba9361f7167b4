import numpy
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from alnb.acquire import STRATEGIES
from alnb.report.palette import CLASS_COLOURS, draw_legend, looks


def test_no_two_strategies_of_a_figure_have_one_colour() -> None:
    for names in (list(STRATEGIES), [f"s{k}" for k in range(40)], [*STRATEGIES, "pt4al", "learning_loss", "pt4al, jigsaw"]):
        style = looks(names)
        assert list(style) == names and len({look["color"] for look in style.values()}) == len(names)
    assert {look["color"] for look in looks(list(STRATEGIES)[:10]).values()} == set(CLASS_COLOURS)


def test_strategies_keep_their_look_from_figure_to_figure() -> None:
    alone = {**looks(["vaal"]), **looks(["random"])}
    assert alone == {name: looks(["margin", "mine", "random", "entropy", "vaal"])[name] for name in ("vaal", "random")}
    assert looks(["mine", "random"]) == looks(["random", "mine", "random"]) and looks(["mine"]) == {"mine": looks(["mine", "vaal"])["mine"]}


def test_many_classes_are_left_out_of_the_legend() -> None:
    for count, expected in ((10, 11), (11, 1)):
        figure = Figure()
        draw_legend(figure, {"pool": {"color": "0.6"}}, [str(c) for c in range(count)])
        assert len(figure.legends[0].get_texts()) == expected


def test_class_colours_are_told_apart_by_all_eyes() -> None:
    """Matrices of Machado et al. 2009 at full severity, on linear RGB; differences in CIE L*a*b*."""
    eyes = numpy.array(
        [
            [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ]
    )
    rgb = numpy.array([to_rgb(colour) for colour in CLASS_COLOURS])
    linear = numpy.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = numpy.clip(numpy.einsum("eij,cj->eci", eyes, linear), 0, 1)
    xyz = seen @ numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1, 1.089]
    f = numpy.where(xyz > 0.008856, numpy.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = numpy.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
    distance = numpy.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1) + 1000 * numpy.eye(len(rgb))
    assert len(rgb) == 10 and distance.min() > 16

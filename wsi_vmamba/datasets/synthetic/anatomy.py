"""Anatomy: where capsule, follicles, sinuses, fat and metastases of a node lie, as coarse fields."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.noise import FloatArray, smooth_noise
from wsi_vmamba.datasets.synthetic.scene import STEP_PX, Layer, Scene, field_shape
from wsi_vmamba.datasets.synthetic.spec import NO_LESION
from wsi_vmamba.datasets.synthetic.textures import FIBRES_ALONG_Y, GLANDS

#: Lesions by size class: how many (least, most) and their diameter as a share of the node's short diameter.
_LESIONS = {
    "macro": ((1, 1), (0.45, 0.65)),
    "micro": ((1, 2), (0.17, 0.26)),
    "small": ((2, 4), (0.07, 0.11)),
}
#: No lesion is drawn smaller than this many pixels across (a few nests).
_LEAST_LESION_PX = 110.0


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One metastasis: its outline in level-0 px, shape (n, 2) as x, y, and its size class."""

    polygon_l0: NDArray[np.float64]
    size: str


@dataclass(frozen=True, kw_only=True)
class _Node:
    """One lymph node: the field of its outline and what else is measured from."""

    field: FloatArray
    x_px: float
    y_px: float
    radius_px: float


class _Draft:
    """Fields of one slide under construction; every length in pixels, every array coarse."""

    def __init__(self, rng: np.random.Generator, *, width_px: int, height_px: int) -> None:
        self.rng = rng
        self.width_px, self.height_px = width_px, height_px
        self.rows, self.columns = field_shape(width_px=width_px, height_px=height_px)
        y, x = np.mgrid[0 : self.rows, 0 : self.columns].astype(np.float32)
        self.x, self.y = (x + 0.5) * STEP_PX, (y + 0.5) * STEP_PX
        #: Sizes of structures shrink with slides that are too small for them.
        self.unit = min(1.0, min(width_px, height_px) / 2400)

    def noise(self, grain_px: float) -> FloatArray:
        grain = max(grain_px * self.unit / STEP_PX, 2.0)
        return smooth_noise(self.rng, width=self.columns, height=self.rows, grain=grain)

    def blob(
        self, *, x_px: float, y_px: float, radius_px: float, aspect: float = 1.0, ragged: float = 0.12
    ) -> FloatArray:
        """Field of a rounded shape with an irregular outline."""
        turn = self.rng.uniform(0, np.pi)
        #: Beyond this square the field is far below any edge, and not worth its arithmetic.
        reach = radius_px * 1.8 + 300
        window = tuple(
            slice(max(int((at - reach) / STEP_PX), 0), max(int((at + reach) / STEP_PX) + 1, 1))
            for at in (y_px, x_px)
        )
        dx, dy = self.x[window] - x_px, self.y[window] - y_px
        u = (dx * np.cos(turn) + dy * np.sin(turn)) / np.sqrt(aspect)
        v = (dy * np.cos(turn) - dx * np.sin(turn)) * np.sqrt(aspect)
        theta = np.arctan2(v, u)
        outline = np.full_like(u, radius_px)
        for harmonic in range(2, 7):
            amplitude = ragged * radius_px * self.rng.standard_normal() / harmonic**1.2
            outline += amplitude * np.cos(harmonic * theta + self.rng.uniform(0, 2 * np.pi))
        field: FloatArray = np.full_like(self.x, -1e4)
        field[window] = outline - np.hypot(u, v)
        return field


def draw_anatomy(
    rng: np.random.Generator, *, width_px: int, height_px: int, lesion_size: str
) -> tuple[Scene, tuple[Lesion, ...]]:
    """Lay out one slide: its scene and the outlines of its lesions (none for ``lesion_size`` "none")."""
    draft = _Draft(rng, width_px=width_px, height_px=height_px)
    nodes = _nodes(draft)
    tissue = np.maximum.reduce([node.field for node in nodes])
    layers = [
        Layer(tissue="glass", field=np.full_like(tissue, 1e4)),
        Layer(tissue="fat", field=_fat_field(draft, tissue)),
        Layer(tissue="capsule", field=tissue),
        Layer(tissue="capsule", field=_steep(tissue), texture=FIBRES_ALONG_Y),
    ]
    capsule_px = draft.unit * (26 + 24 * np.clip(1 + draft.noise(500), 0, 2.5))
    inner = np.asarray(tissue - capsule_px, dtype=np.float32)
    layers += _parenchyma(draft, inner)
    layers += _follicles(draft, nodes, inner)
    layers += _trabeculae_and_scars(draft, inner)
    lesion_layers, lesions = _lesions(draft, nodes, inner, lesion_size)
    layers += lesion_layers
    layers.append(Layer(tissue="glass", field=_cracks(draft, tissue)))
    return Scene(
        width_px=width_px, height_px=height_px, layers=tuple(layers), thickness=_thickness(draft, tissue)
    ), lesions


def _nodes(draft: _Draft) -> list[_Node]:
    """One large node, or two side by side along the longer side of the slide."""
    rng, w, h = draft.rng, draft.width_px, draft.height_px
    two = rng.random() < 0.45 and w > 1.25 * h
    spots = ((0.28, 0.74) if rng.random() < 0.5 else (0.72, 0.27)) if two else (0.5,)
    nodes = []
    for rank, share in enumerate(spots):
        room = min(h, w * (0.46 if two else 0.86))
        radius = 0.5 * room * float(rng.uniform(0.72, 0.86) if rank == 0 else rng.uniform(0.45, 0.66))
        x = w * share + rng.normal(0, 0.015) * w
        y = h * 0.5 + rng.uniform(-1, 1) * max(0.46 * h - radius, 0) * 0.5
        field = draft.blob(
            x_px=x, y_px=y, radius_px=radius, aspect=float(rng.uniform(1.0, 1.22)), ragged=0.07
        )
        field = field + 10 * draft.unit * draft.noise(160)
        nodes.append(_Node(field=np.asarray(field, dtype=np.float32), x_px=x, y_px=y, radius_px=radius))
    return nodes


def _fat_field(draft: _Draft, tissue: FloatArray) -> FloatArray:
    """Fat around the nodes, wide on one side and torn at its edge."""
    angle = draft.rng.uniform(0, 2 * np.pi)
    across = (draft.x / draft.width_px - 0.5) * np.cos(angle) + (draft.y / draft.height_px - 0.5) * np.sin(
        angle
    )
    reach = draft.unit * draft.rng.uniform(40, 380) + 900 * draft.unit * across
    field = tissue + reach + 110 * draft.unit * draft.noise(420) + 25 * draft.unit * draft.noise(90)
    return np.asarray(field, dtype=np.float32)


def _steep(field: FloatArray) -> FloatArray:
    """The part of a field whose edge runs along y, so that fibres can follow it."""
    slope_x, slope_y = cv2.Sobel(field, cv2.CV_32F, 1, 0), cv2.Sobel(field, cv2.CV_32F, 0, 1)
    lean = cv2.GaussianBlur(np.abs(slope_x) - np.abs(slope_y), (0, 0), 6)
    return np.asarray(np.minimum(field, 4 * lean), dtype=np.float32)


def _parenchyma(draft: _Draft, inner: FloatArray) -> list[Layer]:
    """Cortex under the capsule, paracortex and medullary sinuses towards the middle, subcapsular sinus."""
    unit = draft.unit
    deep = inner - unit * (420 + 130 * draft.noise(500))
    loose = np.minimum(deep, 90 * unit * (draft.noise(330) + draft.rng.uniform(-0.2, 0.8)))
    ridges = 55 * unit * (draft.rng.uniform(0.2, 0.34) - np.abs(draft.noise(260)))
    medulla = np.minimum(ridges * 3, deep - 100 * unit)
    medulla = np.minimum(medulla, 120 * unit * (draft.noise(800) + draft.rng.uniform(-0.6, 0.6)))
    under = np.minimum(inner, unit * (34 + 26 * draft.noise(300)) - inner)
    sheets = np.minimum(deep - 60 * unit, 130 * unit * (draft.noise(380) - draft.rng.uniform(1.2, 2.2)))
    fields = {
        "cortex": inner,
        "paracortex": loose,
        "sinus": np.maximum(medulla, under),
        "histiocytes": sheets,
    }
    return [Layer(tissue=name, field=np.asarray(field, dtype=np.float32)) for name, field in fields.items()]


def _follicles(draft: _Draft, nodes: list[_Node], inner: FloatArray) -> list[Layer]:
    """Follicles along the cortex, some deeper: a mantle of packed lymphocytes around a germinal centre."""
    rng, unit = draft.rng, draft.unit
    mantle = np.full_like(inner, -1e4)
    germinal = np.full_like(inner, -1e4)
    share = rng.uniform(0.25, 1.0)
    for node in nodes:
        scale = min(unit, node.radius_px / 900)
        count = int(share * 2 * np.pi * node.radius_px / (520 * scale))
        for angle in rng.uniform(0, 2 * np.pi) + np.arange(count) * 2 * np.pi / max(count, 1):
            radius = scale * rng.uniform(70, 210)
            deep = rng.random() < 0.25
            away = node.radius_px * (rng.uniform(0.2, 0.6) if deep else 1) - (
                0 if deep else 130 * scale + radius
            )
            spot = {
                "x_px": node.x_px + away * np.cos(angle + rng.normal(0, 0.05)),
                "y_px": node.y_px + away * np.sin(angle + rng.normal(0, 0.05)),
            }
            heart = draft.blob(**spot, radius_px=radius, aspect=rng.uniform(1, 1.5), ragged=0.08)
            active = rng.random() < 0.8
            germinal = np.maximum(germinal, heart) if active else germinal
            mantle = np.maximum(mantle, heart + scale * rng.uniform(40, 90))
    mantle, germinal = np.minimum(mantle, inner - 45 * unit), np.minimum(germinal, inner - 60 * unit)
    return [
        Layer(tissue="mantle", field=np.asarray(mantle, dtype=np.float32)),
        Layer(tissue="germinal", field=np.asarray(germinal, dtype=np.float32)),
    ]


def _trabeculae_and_scars(draft: _Draft, inner: FloatArray) -> list[Layer]:
    """Fibrous strands through the node, fat islands within it, in slides of both labels."""
    rng, unit = draft.rng, draft.unit
    strands = 130 * unit * (rng.uniform(0.03, 0.1) - np.abs(draft.noise(650)))
    strands = np.minimum(strands, 150 * unit * (draft.noise(700) - rng.uniform(-0.2, 1.0)))
    scars = 110 * unit * (draft.noise(300) - rng.uniform(1.9, 3.2))
    islands = 90 * unit * (draft.noise(330) - rng.uniform(1.9, 3.6))
    fibrous = np.minimum(np.maximum(strands, scars), inner + 10 * unit)
    return [
        Layer(tissue="capsule", field=np.asarray(fibrous, dtype=np.float32)),
        Layer(tissue="fat", field=np.asarray(np.minimum(islands, inner + 10 * unit), dtype=np.float32)),
    ]


def _lesions(
    draft: _Draft, nodes: list[_Node], inner: FloatArray, lesion_size: str
) -> tuple[list[Layer], tuple[Lesion, ...]]:
    """Metastases of one size class, anywhere inside the capsule; solid nests, glands in part of them."""
    if lesion_size == NO_LESION:
        return [], ()
    rng = draft.rng
    (least, most), (low, high) = _LESIONS[lesion_size]
    field = np.full_like(inner, -1e4)
    for _ in range(int(rng.integers(least, most, endpoint=True))):
        node = nodes[int(rng.integers(len(nodes))) if lesion_size != "macro" else 0]
        radius = max(
            node.radius_px * float(rng.uniform(low, high)), min(_LEAST_LESION_PX / 2, 0.4 * node.radius_px)
        )
        away = (
            node.radius_px * float(rng.uniform(0.1, 0.8)) if lesion_size != "macro" else 0.35 * node.radius_px
        )
        away = min(away, max(node.radius_px - 1.15 * radius, 0))
        angle = rng.uniform(0, 2 * np.pi)
        x, y = node.x_px + away * np.cos(angle), node.y_px + away * np.sin(angle)
        shape = draft.blob(x_px=x, y_px=y, radius_px=radius, aspect=rng.uniform(1, 1.5), ragged=0.16)
        shape = shape + 0.10 * radius * draft.noise(max(radius * 0.5, 30))
        near = draft.blob(x_px=x, y_px=y, radius_px=1.6 * radius, ragged=0.0)
        field = np.maximum(field, np.minimum(shape, near))
    field = np.asarray(np.minimum(field, inner), dtype=np.float32)
    field, lesions = outline_lesions(field, lesion_size)
    glandular = 120 * draft.unit * (draft.noise(450) + rng.uniform(-0.9, 0.9))
    return [
        Layer(tissue="tumour", field=field),
        Layer(
            tissue="tumour", field=np.asarray(np.minimum(field, glandular), dtype=np.float32), texture=GLANDS
        ),
    ], lesions


def outline_lesions(field: FloatArray, lesion_size: str) -> tuple[FloatArray, tuple[Lesion, ...]]:
    """Trace the positive parts of a field; specks too small for a polygon are taken out of it.

    Polygons follow the zero line of the field: a quarter of a coarse step is their error.
    """
    scale = 4
    fine = cv2.resize(field, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    mask = (fine > 0).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    lesions = []
    field = field.copy()
    for contour in sorted(contours, key=lambda c: tuple(c[0, 0])):
        if cv2.contourArea(contour) < (40 * scale / STEP_PX) ** 2:
            left, top, width, height = (int(v) for v in np.array(cv2.boundingRect(contour)) // scale)
            part = field[max(top - 1, 0) : top + height + 2, max(left - 1, 0) : left + width + 2]
            np.minimum(part, -1e4, out=part, where=part > -12)
            continue
        simple = cv2.approxPolyDP(contour, 0.6, closed=True)[:, 0].astype(np.float64)
        lesions.append(Lesion(polygon_l0=(simple + 0.5) * STEP_PX / scale, size=lesion_size))
    return field, tuple(lesions)


def _cracks(draft: _Draft, tissue: FloatArray) -> FloatArray:
    """Tears from sectioning: thin white gaps along the ridges of a noise field, where the slide has any."""
    torn = draft.noise(900) - draft.rng.uniform(0.3, 2.5)
    gap = 60 * draft.unit * (0.10 - np.abs(draft.noise(380)))
    return np.asarray(
        np.minimum.reduce([gap, 60 * draft.unit * torn, tissue - 40 * draft.unit]), dtype=np.float32
    )


def _thickness(draft: _Draft, tissue: FloatArray) -> FloatArray:
    """Gain of both stains: slow unevenness, and a fold in one slide out of three."""
    rng = draft.rng
    gain = 1 + 0.05 * draft.noise(1500) + 0.025 * draft.noise(300)
    if rng.random() < 0.35:
        angle = rng.uniform(0, np.pi)
        along = (draft.x - draft.width_px / 2) * np.cos(angle) + (draft.y - draft.height_px / 2) * np.sin(
            angle
        )
        along = along + 90 * draft.unit * draft.noise(600) - rng.uniform(-0.2, 0.2) * draft.height_px
        width = draft.unit * rng.uniform(22, 60)
        where = np.clip((width - np.abs(along)) / 14, 0, 1) * (draft.noise(1200) > -0.3) * (tissue > 0)
        gain = gain * (1 + 0.6 * where)
    return np.asarray(np.clip(gain, 0.8, 1.75), dtype=np.float32)

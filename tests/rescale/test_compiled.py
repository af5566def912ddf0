"""The compiled cubic has the bytes of the one in numpy and of whole-number arithmetic, and reads nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsi_vmamba.rescale import Rescaler, compiled, reference

SCALES = [0.5001, 0.96, 1.0288, 1.25, 1.5, 2.0062, 2.0576, 3.99, 8.05, 16.2]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(3).integers(0, 256, (900, 1300, 3), dtype=np.uint8)


def _both(rescale, fast, canvas, scale, **place):
    got = rescale(canvas, scale, cubic=fast, **place)
    np.testing.assert_array_equal(got, rescale(canvas, scale, cubic=reference.Cubic, **place))
    return got


@pytest.mark.parametrize("scale", SCALES)
def test_bytes_of_the_numpy_cubic(rescale, fast, noise, scale):
    width, height = min(531, int(1100 / scale)), min(67, int(700 / scale))
    _both(rescale, fast, noise, scale, x_px=7, y_px=3, width_px=width, height_px=height)


@settings(deadline=None)
@given(
    scale=st.one_of(st.sampled_from([1.25, 2.0576]), st.floats(0.3, 4.5)),
    x_px=st.integers(0, 60),
    y_px=st.integers(0, 60),
    width_px=st.integers(1, 70),
    height_px=st.integers(1, 40),
)
@example(scale=2.0576, x_px=1, y_px=1, width_px=1, height_px=1)
@example(scale=1.25, x_px=0, y_px=0, width_px=17, height_px=17)
def test_bytes_of_the_numpy_cubic_anywhere(rescale, fast, noise, scale, x_px, y_px, width_px, height_px):
    _both(rescale, fast, noise, scale, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px)


@pytest.mark.parametrize("scale", [0.96, 1.25, 2.0576])
@pytest.mark.parametrize("square_px", [1, 2, 3, 7])
def test_overshoot_is_clipped_alike(rescale, fast, scale, square_px):
    at = np.arange(300) // square_px
    board = np.repeat(((at[:, None] + at) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    got = _both(rescale, fast, board, scale, x_px=3, y_px=5, width_px=71, height_px=37)
    if square_px == 7:
        assert got.min() == 0
        assert got.max() == 255


def _round_half_even(sums, shift):
    """In whole numbers; numpy shifts towards minus infinity."""
    down = sums >> shift
    rest, half = sums - (down << shift), 1 << (shift - 1)
    return down + ((rest > half) | ((rest == half) & (down % 2 == 1)))


@settings(deadline=None)
@given(data=st.data())
def test_any_whole_weights_are_summed_and_rounded_exactly(fast, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    taps = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    source = rng.integers(0, 256, (*(taps[i] + rng.integers(0, 50) for i in (0, 1)), 3), dtype=np.uint8)
    firsts = [np.sort(rng.integers(0, source.shape[i] - taps[i] + 1, shape[i])) for i in (0, 1)]
    # Weights that fall on the halves often: multiples of a large power of two.
    weights = [16 * rng.integers(-3, 6, (shape[i], taps[i])) for i in (0, 1)]
    out = np.full((*shape, 3), 99, dtype=np.uint8)
    arrays = [a for i in (0, 1) for a in (firsts[i], weights[i].astype(np.float32))]
    compiled.module.resample(source, *arrays, out, row_shift=6, column_shift=7, isa=fast.keywords["isa"])
    rows = source[firsts[0][:, None] + np.arange(taps[0])].astype(np.int64)
    mixed = _round_half_even(np.einsum("yt,ytxc->yxc", weights[0], rows), 6)
    columns = mixed[:, firsts[1][:, None] + np.arange(taps[1])]
    exact = _round_half_even(np.einsum("xt,yxtc->yxc", weights[1], columns), 7)
    np.testing.assert_array_equal(out, np.clip(exact, 0, 255))


def test_views_with_gaps_between_their_rows(fast, noise):
    rescaler = Rescaler(x_px=9, y_px=9, width_px=300, height_px=40, scale=2.0576, cubic=fast)
    rows, columns = rescaler.rows, slice(rescaler.left, rescaler.right)
    top, bottom = int(rows.first[0]), int(rows.end[-1])
    frame = np.full((60, 320, 3), 99, dtype=np.uint8)
    out = frame[10:50, 10:310]
    # Every other row of a taller picture, right side up and upside down.
    for view in (noise[0::2], noise[::-2]):
        rescaler.fill(
            out,
            view[top:bottom, columns],
            start=0,
            stop=40,
            source_y_px=top,
            run_all=lambda f, n: [f(x) for x in n],
        )
        plain = Rescaler(x_px=9, y_px=9, width_px=300, height_px=40, scale=2.0576, cubic=reference.Cubic)
        expected = np.empty((40, 300, 3), dtype=np.uint8)
        source = np.ascontiguousarray(view[top:bottom, columns])
        plain.fill(
            expected, source, start=0, stop=40, source_y_px=top, run_all=lambda f, n: [f(x) for x in n]
        )
        np.testing.assert_array_equal(out, expected)
    # Nothing beside the target was written.
    frame[10:50, 10:310] = 99
    assert (frame == 99).all()


def test_rows_filled_a_few_at_a_time_and_from_threads(fast, noise):
    rescaler = Rescaler(x_px=2, y_px=3, width_px=560, height_px=101, scale=2.0576, cubic=fast)
    top = int(rescaler.rows.first[0])
    source = noise[top : int(rescaler.rows.end[-1]), rescaler.left : rescaler.right]
    whole, parts = (np.zeros((101, 560, 3), dtype=np.uint8) for _ in range(2))
    with ThreadPoolExecutor(4) as pool:

        def run_all(task, numbers):
            list(pool.map(task, numbers))

        rescaler.fill(whole, source, start=0, stop=101, source_y_px=top, run_all=run_all)
        for start, stop in ((0, 1), (1, 3), (3, 36), (36, 100), (100, 101)):
            rescaler.fill(parts, source, start=start, stop=stop, source_y_px=top, run_all=run_all)
    np.testing.assert_array_equal(parts, whole)


def _call(fast, **changes):
    """A call that is right, but for the changes; columns have 4 taps over 12 source pixels, rows 3 over 10."""
    arguments = {
        "source": np.zeros((10, 12, 3), dtype=np.uint8),
        "row_first": np.array([0, 2, 7]),
        "row_weights": np.ones((3, 3), dtype=np.float32),
        "column_first": np.array([0, 8]),
        "column_weights": np.ones((2, 4), dtype=np.float32),
        "out": np.zeros((3, 2, 3), dtype=np.uint8),
    }
    compiled.module.resample(
        **{**arguments, **changes}, row_shift=1, column_shift=1, isa=fast.keywords["isa"]
    )


def test_a_right_call_is_not_refused(fast):
    _call(fast)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_first": np.array([0, 2, 8])}, "first[2] is 8, 3 taps over 10 source pixels"),
        ({"row_first": np.array([0, 2, 1])}, "rows: first must not fall"),
        ({"row_first": np.array([-1, 2, 7])}, "first[0] is -1"),
        ({"row_first": np.array([0, 2, 2**62])}, "rows: first must"),
        ({"column_first": np.array([0, 9])}, "columns: first must"),
        ({"column_first": np.array([0])}, "columns: first, weights and out must agree"),
        ({"column_weights": np.ones((3, 4), dtype=np.float32)}, "got 2, 3 and 2"),
        ({"row_weights": np.ones((3, 11), dtype=np.float32)}, "rows: 11 taps over 10 source pixels"),
        ({"row_weights": np.ones((3, 0), dtype=np.float32)}, "rows: 0 taps"),
        ({"out": np.zeros((3, 3, 3), dtype=np.uint8)}, "got 2, 2 and 3"),
        (
            {"out": np.zeros((0, 2, 3), dtype=np.uint8), "row_first": np.zeros(0, np.int64)},
            "rows: first, weights",
        ),
        ({"source": np.zeros((10, 12, 4), dtype=np.uint8)}, "source must have shape (rows, columns, 3)"),
        ({"source": np.zeros((10, 24, 3), dtype=np.uint8)[:, ::2]}, "source must have shape"),
        ({"out": np.zeros((3, 2, 6), dtype=np.uint8)[..., ::2]}, "out must have shape"),
    ],
)
def test_wrong_shapes_and_ranges_are_refused(fast, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _call(fast, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": np.zeros((10, 12, 3), dtype=np.int8)},
        {"source": np.zeros((10, 36), dtype=np.uint8)},
        {"row_first": np.array([0, 2, 7], dtype=np.int32)},
        {"row_weights": np.ones((3, 3))},
        {"row_weights": np.ones((3, 6), dtype=np.float32)[:, ::2]},
        {"out": np.zeros((3, 2, 3), dtype=np.float32)},
        {"out": np.broadcast_to(np.uint8(0), (3, 2, 3))},
    ],
)
def test_wrong_types_are_refused_not_converted(fast, changes):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _call(fast, **changes)


def test_an_unknown_instruction_set_is_refused():
    if not compiled.available:
        pytest.skip("the C++ extension is not built")
    with pytest.raises(ValueError, match="instruction set 'mmx'"):
        compiled.module.resample(
            *(np.zeros((1, 1, 3), np.uint8), np.zeros(1, np.int64), np.ones((1, 1), np.float32)),
            *(np.zeros(1, np.int64), np.ones((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)),
            row_shift=1,
            column_shift=1,
            isa="mmx",
        )


HIDDEN = """
import importlib.abc, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "wsi_vmamba.rescale._cubic":
            raise ImportError("hidden by the test")

sys.meta_path.insert(0, Hide())
import numpy as np
from wsi_vmamba.errors import UsageError
from wsi_vmamba.rescale import Rescaler, compiled

assert not compiled.available and compiled.isa == "none"
assert "hidden by the test" in compiled.why and "compiler" in compiled.why, compiled.why
place = dict(x_px=0, y_px=0, width_px=9, height_px=7, scale=1.25)
rescaler = Rescaler(**place)
source = np.full((99, rescaler.right - rescaler.left, 3), 77, np.uint8)
out = np.zeros((7, 9, 3), np.uint8)
top = int(rescaler.rows.first[0])
rescaler.fill(out, source, start=0, stop=7, source_y_px=top, run_all=lambda task, n: [task(i) for i in n])
assert (out == 77).all()
try:
    Rescaler(**place, cubic=compiled.Cubic)
except UsageError as error:
    assert "reference.Cubic" in str(error)
else:
    raise AssertionError("the missing kernels were not refused")
"""


def test_without_the_extension_numpy_does_it():
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_extension_is_used_where_it_is(monkeypatch, noise, rescale):
    if not compiled.available:
        pytest.skip("the C++ extension is not built")
    monkeypatch.setattr(reference, "Cubic", None)
    rescale(noise, 1.25, x_px=0, y_px=0, width_px=9, height_px=9)

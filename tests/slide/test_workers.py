from __future__ import annotations

import multiprocessing
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.shared_file import SharedFile
from wsi_vmamba.slide.workers import run_all


def test_every_item_once():
    done = []
    run_all(done.append, list(range(1000)))
    assert sorted(done) == list(range(1000))


def test_first_error_is_raised_and_stops_the_rest():
    done = []

    def task(number):
        done.append(number)
        if number == 5:
            raise ValueError("five")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="five"):
        run_all(task, list(range(1000)))
    assert len(done) < 100


def test_callers_inside_the_pool_do_not_block_each_other():
    done = []
    run_all(lambda _: run_all(lambda _: run_all(done.append, range(5)), range(5)), range(20))
    assert len(done) == 500


def _in_child(results):
    done = []
    run_all(done.append, range(50))
    results.put(len(done))


def test_pool_works_in_a_forked_child():
    run_all(lambda _: None, range(50))
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
        child = context.Process(target=_in_child, args=(results,))
        child.start()
    child.join(20)
    assert child.exitcode == 0
    assert results.get() == 50


def test_closing_waits_for_running_reads(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    file = SharedFile(path)
    inside, go_on = threading.Event(), threading.Event()

    def read():
        with file.reading():
            inside.set()
            go_on.wait()
            return file.read_at(3, 4)

    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read)
        inside.wait()
        closing = pool.submit(file.close)
        time.sleep(0.05)
        assert not closing.done()
        go_on.set()
        assert reading.result() == b"3456"
        closing.result()
    with pytest.raises(UnreadableSlideError, match="closed"), file.reading():
        pass


def test_reading_past_the_end_gives_what_there_is(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    file = SharedFile(path)
    with file.reading():
        assert file.read_at(8, 10) == b"89"
        assert file.read_at(20, 5) == b""
    file.close()

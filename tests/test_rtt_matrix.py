import re
import zipfile

import numpy as np
import pytest

from testnet import rtt_matrix
from testnet.rtt_matrix import (
    LEAST_RTT_US,
    STRETCH_P10_P50_P90,
    BadMatrix,
    _sphere_floor_ms,
    _stretch,
    from_ms,
    load,
    sphere,
)


def square(size=4, rtt_ms=10.0):
    matrix = np.full((size, size), rtt_ms)
    np.fill_diagonal(matrix, 0)
    return matrix


def changed(at, value, slices=None):
    matrix = square() if slices is None else np.stack([square()] * slices)
    matrix[at] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (changed((1, 2), -5.0), r"rtt_ms\[1, 2\] is -5 ms: a round trip that is negative\."),
        (changed((2, 0, 3), -1.0, slices=3), r"rtt_ms\[2, 0, 3\] is -1 ms"),
        (changed((3, 0), np.inf), r"rtt_ms\[3, 0\] is inf ms: a round trip that is infinite\."),
        (changed((0, 1), 9e6), r"rtt_ms\[0, 1\] is 9e\+06 ms: a round trip that is longer than 60 s\."),
        (changed(([2] * 4 + [0, 1, 3], [0, 1, 2, 3, 2, 2, 2]), np.nan), r"row 2 of rtt_ms is missing"),
        (np.full((4, 4), np.nan), r"row 0 of rtt_ms is missing"),
        (square()[:3], r"not square: it has the shape 3 x 4"),
        (np.zeros((2, 2, 3, 3)), r"N x N or slices x N x N; it has the shape 2 x 2 x 3 x 3"),
        (np.zeros((1, 1)), r"2 to 8192 places"),
        (np.zeros((0, 4, 4)), r"0 x 4 x 4"),
        (np.full((3, 3), "far"), r"must hold numbers"),
    ],
)
def test_a_matrix_that_is_none_is_refused_by_a_sentence_that_names_the_entry(matrix, sentence):
    with pytest.raises(BadMatrix, match=sentence):
        from_ms(matrix, "a file")


def test_what_is_no_matrix_file_is_refused_by_a_sentence(tmp_path):
    def sentence_of(name):
        with pytest.raises(BadMatrix) as caught:
            load(tmp_path / name)
        return str(caught.value)

    assert "There is no file" in sentence_of("none.npz")
    (tmp_path / "text.npz").write_text("not a matrix")
    assert "is no .npz file" in sentence_of("text.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    assert "is no .npz file" in sentence_of("cut.npz")
    np.save(tmp_path / "array.npy", square())
    assert "is no .npz file" in sentence_of("array.npy")
    np.savez(tmp_path / "other.npz", delays=square())
    assert re.search(r"has no array 'rtt_ms'; it has delays", sentence_of("other.npz"))
    np.savez(tmp_path / "objects.npz", rtt_ms=np.array([[object()]]))
    assert "cannot be read" in sentence_of("objects.npz")
    assert "cannot be read" in sentence_of(".")


def test_a_matrix_that_is_larger_than_it_can_be_takes_no_memory(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive, archive.open("rtt_ms.npy", "w") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**7)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(BadMatrix, match="cannot be read"):
        load(tmp_path / "claims.npz")
    np.savez_compressed(tmp_path / "bomb.npz", rtt_ms=np.zeros((200, 200)))
    monkeypatch.setattr(rtt_matrix, "MAX_ARRAY_BYTES", 100_000)
    with pytest.raises(BadMatrix, match="larger than 100000 bytes"):
        load(tmp_path / "bomb.npz")


def test_times_of_a_file_are_the_medians_of_its_slices(tmp_path):
    slices = np.stack([square(rtt_ms=rtt_ms) for rtt_ms in (10.0, 12.0, 30.0)])
    np.savez(tmp_path / "m.npz", rtt_ms=slices)
    matrix = load(tmp_path / "m.npz")
    assert matrix.places == 4
    assert matrix.median_us[0, 1] == 12_000
    assert matrix.median_us[2, 2] == 0
    assert matrix.ratio is not None
    assert list(matrix.ratio[:, 0, 1]) == pytest.approx([10 / 12, 1, 2.5])


def test_an_unknown_pair_is_as_far_as_the_shortest_way_over_a_third():
    rtt_ms = changed(([0, 1], [1, 0]), np.nan)
    rtt_ms[0, 3] = 3
    matrix = from_ms(rtt_ms, "a file")
    assert matrix.estimated == 2
    assert matrix.median_us[0, 1] == 13_000
    once = changed((0, 0, 1), np.nan, slices=2)
    assert from_ms(once, "a file").estimated == 0
    assert from_ms(once, "a file").median_us[0, 1] == 10_000


def test_of_a_pair_that_is_known_in_one_direction_the_other_is_as_long():
    upper = np.triu(square(rtt_ms=20.0))
    upper[np.tril_indices(4, -1)] = np.nan
    matrix = from_ms(upper, "a file")
    assert matrix.estimated == 0
    assert (matrix.median_us == from_ms(square(rtt_ms=20.0), "a file").median_us).all()


def test_a_file_of_comma_separated_values_is_a_matrix_too(tmp_path):
    (tmp_path / "m.csv").write_text("0,10,30\n10,0,\n30,nan,0\n")
    assert load(tmp_path / "m.csv").median_us.tolist() == [
        [0, 10_000, 30_000], [10_000, 0, 40_000], [30_000, 40_000, 0],
    ]  # fmt: skip
    for text, sentence in (
        ("", "shape 0"),
        ("a,b\nc,d\n", "row 0, column 0 is 'a'; it must be a number of milliseconds, or empty"),
        ("0,1\n1,0\n2,2\n", "is not square: row 0 has 2 entries where 3 rows want as many"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(BadMatrix, match=re.escape(sentence)):
            load(tmp_path / "bad.csv")


def test_peers_in_one_place_are_a_local_network_apart():
    assert from_ms(square(rtt_ms=0.0), "a file").median_us[0, 1] == LEAST_RTT_US


def test_ways_on_the_sphere_are_a_metric_and_stretched_as_measured():
    matrix = sphere(150, seed=3).median_us
    assert (matrix == matrix.T).all()
    assert (np.diag(matrix) == 0).all()
    assert (matrix[~np.eye(150, dtype=bool)] >= LEAST_RTT_US).all()
    assert (matrix == sphere(150, seed=3).median_us).all()
    assert (matrix != sphere(150, seed=4).median_us).any()

    floor = _sphere_floor_ms(100, np.random.default_rng(1))
    detours = (floor[:, :, None] + floor[None]).min(axis=1)
    assert (floor <= detours + 1e-9).all()
    assert floor.max() < 201 + 40  # half the earth's circumference, and two access lines
    stretch = _stretch(300, np.random.default_rng(1))[np.triu_indices(300, 1)]
    assert np.percentile(stretch, [10, 50, 90]) == pytest.approx(STRETCH_P10_P50_P90, rel=0.03)
    assert stretch.min() >= 1

"""Plans of packed windows: found documents, cut pieces, grain's packer against a naive one, the cache."""

import numpy as np
import pytest

from jaxlm.data import cache, packing, store

EOS = 0


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


def stream(tmp_path, ids):
    path = tmp_path / "tokens.bin"
    path.write_bytes(np.asarray(ids, "<u2").tobytes())
    return store.Store([path], 100)


def plan_of(tmp_path, ids, seq_len, span=None, digest="a"):
    tokens = stream(tmp_path, ids)
    return packing.fetch("text", tokens, span or (0, len(ids)), EOS, seq_len, digest)


def listed(plan):
    """Every window as a list of (start, length)."""
    return [
        list(zip(*map(np.ndarray.tolist, plan.window(w)), strict=True)) for w in range(len(plan))
    ]


def random_stream(rng, num_documents, longest):
    """Documents of 0 to longest - 1 tokens, each with its <eos>."""
    documents = [rng.integers(1, 9, rng.integers(0, longest)) for _ in range(num_documents)]
    return np.concatenate([np.append(document, EOS) for document in documents])


def naive_documents(ids, span):
    """(start, stop) of every document, found token by token."""
    found, start = [], span[0]
    for place in range(*span):
        if ids[place] == EOS or place + 1 == span[1]:
            found.append((start, place + 1))
            start = place + 1
    return found


def naive_pack(lengths, seq_len):
    """Best fit, longest first: the fullest window that has room, or a new one."""
    windows, levels = [], []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fits = [w for w, level in enumerate(levels) if level + lengths[index] <= seq_len]
        if not fits:
            windows.append([])
            levels.append(0)
        best = max(fits, key=lambda w: (levels[w], -w), default=len(windows) - 1)
        windows[best].append(index)
        levels[best] += lengths[index]
    return [sorted(window) for window in windows]


@pytest.mark.parametrize("block", [1, 3, 4, 100])
def test_documents_literally(tmp_path, monkeypatch, block):
    monkeypatch.setattr(packing, "_BLOCK", block)
    tokens = stream(tmp_path, [5, 6, EOS, EOS, 7, EOS, 8, 9])

    def found(span):
        parts = list(packing.documents(tokens, span, EOS))
        return [tuple(map(int, pair)) for part in parts for pair in zip(*part, strict=True)]

    assert found((0, 8)) == [(0, 3), (3, 4), (4, 6), (6, 8)]  # the second is empty, the last open
    assert found((1, 5)) == [(1, 3), (3, 4), (4, 5)]
    assert found((0, 6)) == [(0, 3), (3, 4), (4, 6)]
    assert found((6, 7)) == [(6, 7)]


def test_cut_literally():
    starts, lengths = packing.cut(np.array([0, 3, 7, 8, 16]), np.array([3, 7, 8, 16, 25]), 4)
    assert starts.tolist() == [0, 3, 7, 8, 12, 16, 20, 24]
    assert lengths.tolist() == [3, 4, 1, 4, 4, 4, 4, 1]


def test_pack_literally():
    # Windows of 8, longest first: 6 | 5 | 4, then 3 best beside 5, and 2 beside 6.
    assert packing.pack(np.array([3, 5, 2, 6, 4]), 8) == [[2, 3], [0, 1], [4]]
    assert packing.pack(np.array([8, 8, 8]), 8) == [[0], [1], [2]]
    assert packing.pack(np.array([1]), 8) == [[0]]
    assert packing.pack(np.ones(17, int), 8) == [list(range(8)), list(range(8, 16)), [16]]


@pytest.mark.parametrize("seed", range(6))
def test_pack_equals_a_naive_packer(seed):
    rng = np.random.default_rng(seed)
    seq_len = int(rng.integers(1, 40))
    lengths = rng.integers(1, seq_len + 1, rng.integers(1, 150))
    assert packing.pack(lengths, seq_len) == naive_pack(lengths.tolist(), seq_len)


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_holds_every_token_once_and_no_window_overflows(tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(100 + seed)
    seq_len, longest = int(rng.integers(1, 30)), int(rng.integers(1, 80))
    monkeypatch.setattr(packing, "_BLOCK", int(rng.integers(1, 200)))
    monkeypatch.setattr(packing, "_MAX_TOKENS", int(rng.integers(1, 300)))  # several rounds
    ids = random_stream(rng, 60, longest)
    span = (int(rng.integers(0, 10)), len(ids) - int(rng.integers(0, 10)))
    if span[0] >= span[1]:
        span = (0, len(ids))
    plan = plan_of(tmp_path, ids, seq_len, span)
    places = [np.arange(start, start + length) for w in listed(plan) for start, length in w]
    assert sorted(np.concatenate(places)) == list(range(*span))
    for window in listed(plan):
        assert 0 < sum(length for _, length in window) <= seq_len
        assert window == sorted(window)
    # Pieces are whole documents, or what is left when one is cut every seq_len tokens.
    expected = [
        (start, min(seq_len, last - start))
        for first, last in naive_documents(ids, span)
        for start in range(first, last, seq_len)
    ]
    assert sorted(piece for window in listed(plan) for piece in window) == expected
    assert plan.num_documents == len(naive_documents(ids, span))
    assert plan.num_tokens == span[1] - span[0]


def test_windows_are_well_filled(tmp_path):
    ids = random_stream(np.random.default_rng(0), 2000, 100)
    assert plan_of(tmp_path, ids, 256).num_tokens / (len(plan_of(tmp_path, ids, 256)) * 256) > 0.99


def test_planned_once_and_again_when_something_changes(tmp_path, monkeypatch):
    ids = random_stream(np.random.default_rng(0), 30, 20)
    first = plan_of(tmp_path, ids, 16)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "pack", None)  # can't be called
        assert listed(plan_of(tmp_path, ids, 16)) == listed(first)
        for changed in ({"seq_len": 15}, {"digest": "b"}, {"span": (0, len(ids) - 1)}):
            with pytest.raises(TypeError):
                plan_of(tmp_path, ids, **{"seq_len": 16, **changed})
        patch.setattr(packing, "PACKER", "another")
        with pytest.raises(TypeError):
            plan_of(tmp_path, ids, 16)
    assert not list(cache.root().rglob("*.tmp-*"))  # nor do the failures leave anything


@pytest.mark.parametrize("name", ["starts.bin", "lengths.bin", "firsts.bin", "meta.json"])
def test_a_torn_plan_is_made_again(tmp_path, caplog, name):
    ids = random_stream(np.random.default_rng(0), 30, 20)
    first = listed(plan_of(tmp_path, ids, 16))
    (file,) = cache.root().rglob(name)
    file.write_bytes(file.read_bytes()[:-3])
    assert listed(plan_of(tmp_path, ids, 16)) == first
    assert "is damaged" in caplog.text


def test_pack_two_lengths_literally():
    # Rows of 8 and 4. In all: 9 (6 + 3) | 7 (5 + 2); 5 (2 + 3) fits beside neither: too much of the
    # first's 4, and of the second's; 3 (1 + 2) is beside the second; 3 (2 + 1) fits everywhere: best
    # beside the first, whose 9 + 3 are all there is, not beside the second with 7 + 3.
    lengths = np.array([[2, 3], [5, 2], [1, 2], [2, 1], [6, 3]])
    assert packing.pack(lengths, (8, 4)) == [[3, 4], [1, 2], [0]]


def naive_pack_many(lengths, sizes):
    """`naive_pack` for several lengths: the row of most tokens in all that has room for each."""
    rows, levels = [], []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index].sum()):
        fits = [r for r, level in enumerate(levels) if (level + lengths[index] <= sizes).all()]
        if not fits:
            rows.append([])
            levels.append(0)
        best = max(fits, key=lambda r: (levels[r].sum(), -r), default=len(rows) - 1)
        rows[best].append(index)
        levels[best] = levels[best] + lengths[index]
    return [sorted(row) for row in rows]


@pytest.mark.parametrize("seed", range(6))
def test_pack_two_lengths_equals_a_naive_packer(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, 2)
    lengths = rng.integers(1, sizes + 1, (rng.integers(1, 120), 2))
    assert packing.pack(lengths, sizes.tolist()) == naive_pack_many(lengths, sizes)


def test_groups_hold_every_example_once(monkeypatch):
    rng = np.random.default_rng(0)
    sizes = [20, 12]
    lengths = rng.integers(1, np.array(sizes) + 1, (90, 2))
    plans = []
    for rows_at_once in (1, 3, 1024):  # one, several and a single round
        monkeypatch.setattr(packing, "_MAX_WINDOWS", rows_at_once)
        monkeypatch.setattr(packing, "PACKER", f"{rows_at_once} rows")  # else from the cache
        groups = packing.fetch_groups("pairs", lengths, sizes)
        rows = [groups.row(number).tolist() for number in range(len(groups))]
        assert sorted(index for row in rows for index in row) == list(range(90))
        assert all((lengths[row].sum(0) <= sizes).all() and row == sorted(row) for row in rows)
        plans.append(len(groups))
    assert plans[0] >= plans[1] >= plans[2] >= -(-lengths.sum(0) // sizes).max()

import errno
import inspect
import json
import math
import os
import re
import subprocess
from importlib.metadata import PackageNotFoundError

import pytest
import torch

import symnoise
from symnoise.core import (
    Estimate,
    InputError,
    generator,
    is_right_padded,
    jackknife,
    locks,
    made_in_one_step,
    one_run_at_a_time,
    positions,
    progress_shown,
    provenance,
    ratio_of_sums,
    read_yaml,
    saving,
    track,
    unknown,
    write_atomically,
    write_json,
)
from symnoise.core.ratios import fieller


def test_streams_are_repeatable_and_differ_by_every_part_of_their_key() -> None:
    def draw(*key: int | str) -> torch.Tensor:
        return torch.rand(4, generator=generator(*key))

    assert torch.equal(draw(0, "a", 1), draw(0, "a", 1))
    draws = [draw(0, "a", 1), draw(1, "a", 0), draw(0, "a", 2), draw(0, "b", 1), draw(0, "a")]
    assert len({tuple(d.tolist()) for d in draws}) == len(draws)


def test_integers_of_any_type_name_the_same_stream() -> None:
    numpy = pytest.importorskip("numpy")
    wanted = generator(3, "probe", 1).initial_seed()
    for three, one in ((numpy.int64(3), numpy.int32(1)), (torch.tensor(3), torch.tensor(1, dtype=torch.int16))):
        assert generator(three, "probe", one).initial_seed() == wanted
    for seed, key in ((0.5, 1), (0, 1.0), ("0", 1)):
        with pytest.raises(InputError, match="seeds and ids must be integers"):
            inspect.unwrap(generator)(seed, "probe", key)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0))
    assert torch.equal(before, torch.get_rng_state())


def test_estimate_of_known_draws() -> None:
    estimate = Estimate.from_draws(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    assert estimate.value.tolist() == [2.0, 2.0]
    assert estimate.stderr.tolist() == pytest.approx([1.0, 0.0])  # sd √2 over √2
    assert estimate.dof == 1 and estimate.probes == 2


def test_one_draw_has_no_error_and_an_exact_value_has_none_to_have() -> None:
    assert math.isnan(float(Estimate.from_draws(torch.ones(1, 1)).stderr))
    low, high = Estimate.exact(torch.ones(3)).interval()
    assert torch.equal(low, high)


def test_intervals_cover_at_their_level() -> None:
    # 4,000 intervals of coverage 90 %: the count is binomial with standard deviation 0.47 %; four of them is 1.9 %.
    draws = torch.randn((5, 4000), generator=generator(0, "coverage"))
    low, high = Estimate.from_draws(draws).interval(0.9)
    assert abs(float(((low < 0) & (high > 0)).double().mean()) - 0.9) < 0.019


def test_mean_over_examples_pools_errors() -> None:
    pooled = Estimate(torch.tensor([1.0, 3.0]).double(), torch.tensor([0.3, 0.4]).double(), 8, 7.0).mean()
    assert float(pooled.value) == 2 and float(pooled.stderr) == pytest.approx(0.25)
    assert 7 < pooled.dof < 14


def test_estimates_are_indexed_joined_and_subtracted() -> None:
    draws = torch.randn((50, 4), generator=generator(0, "draws"), dtype=torch.float64)
    whole = Estimate.from_draws(draws, method="made up", seconds=2.0)
    again = Estimate.joined([whole[:3], whole[3:]])
    assert torch.equal(again.value, whole.value) and torch.equal(again.stderr, whole.stderr) and again.seconds == 4
    assert float(whole[1]) == whole.value.tolist()[1] and whole[:2].stderr.tolist() == whole.stderr.tolist()[:2]
    with pytest.raises((RuntimeError, ValueError)):
        float(whole)
    apart = whole[0] - whole[1]
    assert float(apart) == float(whole[0]) - float(whole[1]) and apart.count == 50
    assert float(apart.stderr) == pytest.approx(math.hypot(float(whole[0].stderr), float(whole[1].stderr)))
    assert 49 <= apart.dof <= 98  # Satterthwaite's is between that of one and that of both
    exact = whole - Estimate.exact(torch.zeros(4))
    assert torch.equal(exact.stderr, whole.stderr) and (exact.count, exact.dof) == (50, pytest.approx(49))
    assert (Estimate.exact(torch.ones(2)) - Estimate.exact(torch.ones(2))).dof == math.inf


def test_the_difference_of_independent_estimates_covers() -> None:
    # As above: four standard deviations of the count are 1.9 %.
    draws = torch.randn((2, 6, 4000), generator=generator(0, "differences"))
    low, high = (Estimate.from_draws(draws[0]) - Estimate.from_draws(3 * draws[1, :4])).interval(0.9)
    assert abs(float(((low < 0) & (high > 0)).double().mean()) - 0.9) < 0.025  # Satterthwaite's is no exact law


def test_an_estimate_says_itself_in_a_line() -> None:
    found = Estimate(torch.tensor([132.21, -40.2]).double(), torch.tensor([6.51, 17.2]).double(), 16, 3.0, "taylor")
    assert f"{found}" == str(found) == "132.2 ± 6.5, -40 ± 17" and f"{found[0]:.2f}" == "132.21 ± 6.51"
    assert repr(found) == "Estimate(132.2 ± 6.5, -40 ± 17; taylor; 16 draws)"
    assert repr(Estimate.exact(torch.tensor(2.5))) == "Estimate(2.5)"
    many = repr(Estimate.exact(torch.zeros(1000)))
    assert len(many) < 80 and "1000 in all" in many


def test_the_variance_of_draws_has_an_error_without_a_law() -> None:
    """Over 2,000 samples its standard error is the spread of the variance, to 4 standard errors of a spread (6.3 %)."""
    draws = torch.rand((200, 2000), generator=generator(0, "variance"), dtype=torch.float64)  # κ = 1.8: 30 % off normal
    found = Estimate.variance(draws)
    assert torch.equal(found.value, draws.var(0)) or torch.allclose(found.value, draws.var(0), rtol=1e-12)
    assert float(found.stderr.mean()) == pytest.approx(float(found.value.std()), rel=0.07)


def test_the_error_of_a_variance_has_no_bias_with_few_draws_either() -> None:
    """Its square over 40,000 samples of 12 draws: the variance of s², of a law with heavy tails and one with light."""
    owner = generator(0, "few draws")
    for draws in (
        torch.empty((12, 40_000), dtype=torch.float64).exponential_(generator=owner),
        torch.rand((12, 40_000), generator=owner, dtype=torch.float64),
    ):
        found = Estimate.variance(draws)
        assert float(found.stderr.square().mean()) == pytest.approx(float(found.value.var()), rel=0.1)


def test_no_law_has_a_variance_known_better_than_two_values_do() -> None:
    """Three values below and three above: by its own fourth moment the error would be 0."""
    found = Estimate.variance(torch.tensor([1.0, -1.0] * 3))
    assert float(found.stderr) == pytest.approx(float(found.value) * (2 / (6 * 5)) ** 0.5)


def test_up_to_three_draws_give_a_variance_no_error() -> None:
    for count, known in ((2, False), (3, False), (4, True)):
        made = Estimate.variance(torch.randn((count, 200), generator=generator(0, "few"), dtype=torch.float64))
        assert bool(made.stderr.isfinite().all()) == known and bool(made.value.isfinite().all())


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(InputError, match="level must be between 0 and 1"):
        Estimate.exact(torch.ones(1)).interval(level)


def test_the_jackknife_of_a_mean_is_the_mean_and_of_a_square_has_no_bias():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    mean = jackknife(lambda some: values[some].mean(), 4)
    assert (float(mean.value), float(mean.stderr)) == pytest.approx((4.0, float(values.std()) / 2))
    square = jackknife(lambda some: values[some].mean() ** 2, 4)
    assert float(square.value) == pytest.approx(16 - float(values.var()) / 4)
    assert square.dof == 3


def test_the_error_of_a_ratio_is_the_delta_methods_where_the_denominator_is_known_well() -> None:
    """Σa/Σb: (a − rb)/Σb of each draw, to order 1/√n."""
    below = 1 + torch.rand((400, 3), generator=generator(0, "below"), dtype=torch.float64)
    above = below + torch.rand((400, 3), generator=generator(0, "above"), dtype=torch.float64)
    found = ratio_of_sums(above, below)
    spread = (above - found.value * below).square().sum(0).sqrt() / below.sum(0)
    torch.testing.assert_close(found.stderr, spread, rtol=0.03, atol=0)
    assert ratio_of_sums(above[:1], below[:1]).stderr.isnan().all()


def test_a_ratio_covers_wherever_its_denominator_lies_and_has_no_error_where_that_may_be_zero() -> None:
    """64 draws whose mean is so many of its standard errors from 0; y is no multiple of x, so E y/E x is large there.
    95 % intervals of 2,000 repetitions, three standard errors of 0.5 %; the jackknife's cover 69 to 90 % up to 4."""
    for off in (0.5, 1.25, 2.0, 3.0, 4.0, 6.0, 10.0):
        m = off / 64**0.5
        x = m + torch.randn((64, 2_000), generator=generator(0, "x", str(off)), dtype=torch.float64)
        y = (
            0.7 * x
            + 0.8 * x.abs()
            + 0.3 * torch.randn(x.shape, generator=generator(0, "y", str(off)), dtype=torch.float64)
        )
        mean_abs = (2 / math.pi) ** 0.5 * math.exp(-m * m / 2) + m * math.erf(m / 2**0.5)
        found = ratio_of_sums(y, x)
        low, high = found.interval()
        truth = 0.7 + 0.8 * mean_abs / m
        assert float(((low <= truth) & (truth <= high)).double().mean()) > 0.93
        assert (float(found.stderr.isinf().double().mean()) > 0.9) == (off < 1)
        assert (float(found.stderr.isinf().double().mean()) < 0.01) == (off > 4)
    assert str(found.noting(stderr=torch.full_like(found.stderr, math.inf))[0]) == f"{float(found.value[0]):.4g} ± ∞"


def test_unknown_words_get_the_nearest_match() -> None:
    assert "did you mean 'gaussian'" in str(unknown("law", "gausian", ["uniform", "gaussian"]))
    assert "choose one of: uniform, gaussian" in str(unknown("law", "x", ["uniform", "gaussian"]))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def fail(temporary) -> None:
        temporary.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_what_a_killed_write_left_is_removed_by_the_next_one_and_what_is_being_written_is_not(tmp_path) -> None:
    path = tmp_path / "result.json"
    (tmp_path / ".result-killed01.partial.json").write_text("half")
    (tmp_path / ".result-mine.json").write_text("a user's")
    (tmp_path / ".made-killed01.partial").mkdir()
    (tmp_path / ".made-killed01.partial" / "half").touch()

    def meanwhile(temporary) -> None:
        write_json(path, {"a": 1})  # of another process
        assert temporary.exists()
        temporary.write_text("{}")

    write_atomically(path, meanwhile)
    with made_in_one_step(tmp_path / "made") as fresh:
        fresh.mkdir()
    assert path.read_text() == "{}"
    assert sorted(os.listdir(tmp_path)) == [".result-mine.json", "made", "result.json"]


def test_a_full_disk_is_one_line_that_says_so(tmp_path) -> None:
    def full(temporary) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"cannot write .*x\.json: No space left on device; make room there"):
        write_atomically(tmp_path / "x.json", full)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device"),
        (Exception("No space left on device (os error 28)"), "No space left on device"),  # tokenizers
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 60800"), "could not write all of it"),
        (RuntimeError("Connection closed by peer"), None),
        (InputError("cannot read it (os error 2)"), None),
    ],
)
def test_what_a_library_cannot_write_is_one_line(error, said) -> None:
    kind, match = (InputError, f"cannot save out: .*{said}") if said else (type(error), None)
    with pytest.raises(kind, match=match) as raised, saving("out"):
        raise error
    assert said or raised.value is error


def test_a_second_run_in_a_place_is_refused_and_a_killed_one_refuses_nobody(tmp_path, monkeypatch) -> None:
    lock = tmp_path / "out" / ".lock"
    lock.parent.mkdir()
    with one_run_at_a_time(tmp_path / "out", lock, "choose another folder"):
        with (
            pytest.raises(InputError, match=rf"out is in use by another run \(process {os.getpid()}\).*another folder"),
            one_run_at_a_time(tmp_path / "out", lock, "choose another folder"),
        ):
            pass
        assert lock.exists()
    assert not lock.exists()
    lock.write_text("1")  # of a killed process
    with one_run_at_a_time(tmp_path / "out", lock, ""):
        assert lock.read_text() == str(os.getpid())

    def no_locks(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with one_run_at_a_time(tmp_path / "out", lock, ""):
        (tmp_path / ".x-killed01.partial.json").touch()
        write_json(tmp_path / "x.json", {})
    assert sorted(os.listdir(tmp_path)) == [".x-killed01.partial.json", "out", "x.json"]


def test_a_run_that_wrote_nothing_leaves_no_folder_and_what_was_there_stays(tmp_path) -> None:
    there, made = tmp_path / "there", tmp_path / "made"
    there.mkdir()
    for folder in (there, made / "inner"):
        with pytest.raises(ZeroDivisionError), one_run_at_a_time(folder, folder / ".lock", ""):
            assert folder.is_dir() and 1 / 0
    assert os.listdir(tmp_path) == ["there"]
    with one_run_at_a_time(made / "inner", made / "inner" / ".lock", ""):
        (made / "result").touch()
    assert os.listdir(made) == ["result"]


def test_json_has_null_for_what_is_not_a_number(tmp_path) -> None:
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": torch.tensor([1.0, math.inf])})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.0, None]}


def test_yaml_is_read(tmp_path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: [1, caf\xc3\xa9]\r\n")
    assert read_yaml(tmp_path / "a.yaml", "config") == {"a": [1, "café"]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: caf\xe9", "it is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "it is not UTF-8 text"),
        (b"a: 1\nb: [1,\n", "it is not YAML, line 3: expected the node content, but found '<stream end>'"),
        (b"a: \x01", "it is not YAML, unacceptable character #x0001: special characters are not allowed"),
        (b"? [a]\n: 1", "it is not YAML, line 1: found unhashable key"),
        (b"a: !!python/object:os.system x", "it is not YAML, line 1: could not determine a constructor for the tag"),
        (b"a: 2026-02-30", "it is not YAML, day is out of range for month"),
        (b"[" * 5000, "it is not YAML, maximum recursion depth exceeded"),
        (None, "No such file or directory"),
    ],
)
def test_yaml_that_cannot_be_read_is_one_line(tmp_path, content, says) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"cannot read the config {path}: {says}")) as caught:
        read_yaml(path, "config")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose a folder"):
        write_json(tmp_path / "file" / "x.json", {})


def test_track_is_silent_and_complete(capsys) -> None:
    assert list(track(range(3), "work")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_progress_says_nothing_to_a_file(capsys) -> None:
    """rich ends with an empty line there, before whatever is said of an error."""
    with progress_shown():
        assert list(track(range(3), "work")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_provenance_knows_the_version_of_a_checkout_that_is_not_installed(monkeypatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("symnoise.core.files.version", absent)
    assert provenance()["versions"] == {
        "symnoise": symnoise.__version__,
        "torch": None,
        "transformers": None,
        "numpy": None,
        "scipy": None,
    }


def test_the_commit_is_that_of_a_checkout_of_this_package_alone(tmp_path, monkeypatch) -> None:
    """Not of a project whose environment has it installed, above which git looks for a repository."""
    own = ("-c", "user.name=a", "-c", "user.email=a", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), (*own, "commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    commit = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    for folder, expected in ((tmp_path, commit.stdout.strip()), (tmp_path / ".venv" / "site-packages", None)):
        place = folder / "symnoise" / "core" / "files.py"
        place.parent.mkdir(parents=True)
        monkeypatch.setattr("symnoise.core.files.__file__", str(place))
        assert provenance()["commit"] == expected
    monkeypatch.setenv("PATH", "")
    assert provenance()["commit"] is None  # no git


def test_an_interval_has_students_half_width() -> None:
    low, high = Estimate(torch.tensor(1.0).double(), torch.tensor(2.0).double(), 4, 3.0).interval(0.95)
    assert (float(low), float(high)) == pytest.approx((1 - 2 * 3.182446305, 1 + 2 * 3.182446305))


def test_degrees_of_freedom_of_sums_and_means_are_satterthwaites() -> None:
    one = Estimate(torch.tensor([1.0]).double(), torch.tensor([0.3]).double(), 8, 7.0, "a", seconds=1.0)
    other = Estimate(torch.tensor([3.0]).double(), torch.tensor([0.4]).double(), 5, 4.0, "b", seconds=2.0)
    total = one + other
    assert (float(total), float(total.stderr)) == pytest.approx((4.0, 0.5))
    assert total.dof == pytest.approx(0.25**2 / (0.09**2 / 7 + 0.16**2 / 4))
    assert (total.count, total.method, total.seconds) == (5, "", 3.0)
    mean = Estimate(torch.tensor([1.0, 3.0]).double(), torch.tensor([0.3, 0.4]).double(), 8, 7.0).mean()
    assert mean.dof == pytest.approx(0.25**2 / ((0.09**2 + 0.16**2) / 7))
    assert Estimate.exact(torch.ones(2)).mean().dof == math.inf
    vague = Estimate(torch.tensor([1.0, 2.0]).double(), torch.tensor([0.1, math.inf]).double(), 8, 7.0).mean()
    assert [float(end) for end in vague.interval()] == [-math.inf, math.inf]


def test_an_error_that_all_draws_share_adds_in_quadrature() -> None:
    found = Estimate.exact(torch.zeros(1)).noting(stderr=torch.tensor([3.0])).with_shared_error(torch.tensor([4.0]))
    assert found.stderr.tolist() == [5.0]


def test_both_ends_of_fiellers_interval_are_just_as_far_as_students_t_allows() -> None:
    """(A − rB)² = t²(var A − 2r cov + r² var B) at each end r."""
    (A, B), (v_aa, v_ab, v_bb), t = torch.tensor([3.0, 2.0]), torch.tensor([0.09, 0.02, 0.04]), 2.5
    for r in fieller((A, B), (v_aa, v_ab, v_bb), t):
        assert float((A - r * B) ** 2) == pytest.approx(float(t**2 * (v_aa - 2 * r * v_ab + r**2 * v_bb)), rel=1e-4)
    low, high = fieller((A, torch.tensor(0.5)), (v_aa, v_ab, v_bb), t)  # 0.5 = t·0.2: B may be 0
    assert (float(low), float(high)) == (-math.inf, math.inf)


def test_the_error_of_a_ratio_reaches_the_farther_end_of_fiellers_interval() -> None:
    below = 1 + torch.rand((6, 1), generator=generator(0, "few below"), dtype=torch.float64)
    above = 2 * below + torch.rand((6, 1), generator=generator(0, "few above"), dtype=torch.float64)
    found = ratio_of_sums(above, below)
    v = torch.cov(torch.cat([above, below], 1).T) / 6
    low, high = fieller((above.mean(0), below.mean(0)), (v[0, :1], v[0, 1:], v[1, 1:]), 2.570581836)
    farther = max(float(high - found.value), float(found.value - low))
    assert float(found.stderr) * 2.570581836 == pytest.approx(farther) and found.dof == 5


@pytest.mark.parametrize(
    ("mask", "right"),
    [([[1, 1, 0], [1, 0, 0]], True), ([[0, 1, 1]], False), ([[1, 0, 1]], False), ([[1, 1], [0, 0]], False)],
)
def test_padding_on_the_right_is_told_from_other_padding(mask, right) -> None:
    assert is_right_padded(torch.tensor(mask)) is right


def test_positions_are_counted_over_real_tokens() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1]])
    counted = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 1], [0, 0, 1, 2]])
    assert torch.equal(positions(mask), counted) and torch.equal(positions(mask != 0), counted)

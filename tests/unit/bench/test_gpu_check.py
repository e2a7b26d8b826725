"""What `scripts/gpu-check` measures with, as far as a CPU shows it."""

from __future__ import annotations

import pytest

from bench import gpu_check
from bench.gpu_check import Report, bench_decode, check_kernels
from tandem.vlm.backends.plain import Plain
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(
        gpu_check,
        "KERNEL_SHAPES",
        {"rectangle": ((2, 3, 16), *((2, 40, 16),) * 2), "squares": ((2, 2, 19, 16),) * 3},
    )


class Off(Plain):
    """Wrong by a little in one of its products."""

    def __init__(self, form: str) -> None:
        self.form = form

    def rectangle(self, *args):
        output, lse = super().rectangle(*args)
        return output + 0.1 * (self.form == "rectangle"), lse

    def squares(self, *args):
        output, lse = super().squares(*args)
        return output, lse + 0.1 * (self.form == "squares")


def test_both_forms_are_checked_in_every_element_type(monkeypatch):
    monkeypatch.setattr(gpu_check, "CudaFlash", Plain)
    report = Report()
    assert check_kernels(report, "cpu")
    forms = {result["metric"].removeprefix("kernel_error_") for result in report.results}
    assert forms == {f"{f}_{d}" for f in ("rectangle", "squares") for d in ("float32", "bfloat16", "float16")}


@pytest.mark.parametrize("form", ["rectangle", "squares"])
def test_a_kernel_that_is_wrong_in_one_form_is_noticed(monkeypatch, form):
    monkeypatch.setattr(gpu_check, "CudaFlash", lambda: Off(form))
    assert not check_kernels(Report(), "cpu")


def test_the_decode_ratio_says_what_its_baseline_does():
    report = Report()
    bench_decode(report, load_model("dummy:tiny"), stock_model("dummy:tiny"), 128)
    (result,) = report.results
    assert result["baseline"] == "hf_cache"
    assert "concatenates" in result["baseline_is"]
    assert result["ratio"] > 0


def test_a_kernel_without_a_number_is_noticed(monkeypatch):
    class Nothing(Plain):
        def squares(self, *args):
            output, lse = super().squares(*args)
            return output, lse * float("nan")

    monkeypatch.setattr(gpu_check, "CudaFlash", Nothing)
    assert not check_kernels(Report(), "cpu")

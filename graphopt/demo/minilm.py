"""The demonstration on a real sentence encoder: prune it without labels, prove, recover by distillation, compare."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

import graphopt
from graphopt.demo.deployment import Deployment, deploy, sized_row, timing_note
from graphopt.demo.distillation import distil, disturbed_batches, embedding_loss
from graphopt.demo.encoder import SentenceEncoder, Tokens, embed, load_encoder, tokenize
from graphopt.demo.minilm_settings import Choice, MiniLmDemo
from graphopt.demo.pruning import Workload, prune
from graphopt.demo.report import DemoReport, Figure, Row, verdicts
from graphopt.demo.sentences import load_sentences
from graphopt.demo.similarity import mean_cosine, similarity_correlation
from graphopt.demo.spread import Spread
from graphopt.demo.timing import Stopwatch, idle_threads, torch_threads
from graphopt.program import Program

FIGURES = {"cosine": Figure("cosine", "{:.3f}"), "correlation": Figure("Spearman", "{:.3f}")}


DEFAULT = MiniLmDemo()


@dataclass(frozen=True, eq=False)
class _Texts:
    """Sentences as tokens, with the original encoder's embeddings of them."""

    train: Tokens
    held_out: Tokens
    train_embeddings: Tensor
    held_out_embeddings: Tensor

    def score(self, encoder: nn.Module) -> dict[str, Spread]:
        found = embed(encoder, self.held_out)
        return {
            "cosine": Spread(mean_cosine(found, self.held_out_embeddings)),
            "correlation": Spread(similarity_correlation(found, self.held_out_embeddings)),
        }


@dataclass(frozen=True, eq=False)
class _Variant:
    """A pruned and recovered encoder, and how close it is to the original before and after."""

    program: Program
    error: float
    before: Mapping[str, Spread]
    after: Mapping[str, Spread]


def run_minilm(out: Path, demo: MiniLmDemo = DEFAULT) -> DemoReport:
    """Prune a real sentence encoder to shares of its multiply-accumulates and compare.

    Writes ``original.onnx``, one ONNX file for each shown choice, and ``report.json`` into ``out / "minilm"``.

    Args:
        out: Folder for what is written; made where it is absent.
        demo: Sizes, steps, seeds and threads.

    Raises:
        MissingExtraError: The package with the weights, transformers, tokenizers, scikit-learn or the packages for
            ONNX are not installed.
        GraphoptError: Pruning, the proof or the export fails.
    """
    folder = out / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    with torch_threads(demo.threads or idle_threads()):
        report = _run(folder, demo)
    report.save(folder / "report.json")
    return report


def _run(out: Path, demo: MiniLmDemo) -> DemoReport:
    watch = Stopwatch()
    with watch.part("load and embed"):
        encoder = load_encoder()
        texts = _texts(encoder, demo)
    work = _workload(encoder, texts, demo)
    with watch.part("prune and recover"):
        variants = {choice: _variant(work, choice, texts, demo) for choice in demo.choices}
    with watch.part("export and time"):
        original = work.capture()
        programs = {"original": original, **{_file_name(choice): variants[choice].program for choice in demo.shown}}
        timed = tuple(part[: demo.batch_size] for part in texts.held_out)
        deployed = deploy(programs, timed, out, demo.rounds)
    return DemoReport(
        title=f"Sentence encoder all-MiniLM-L6-v2\n{demo.pipeline(demo.shown[0])}",
        rows=(
            replace(sized_row("original", original, deployed["original"]), quality=texts.score(encoder)),
            *_rows(variants, deployed),
        ),
        figures=FIGURES,
        findings=_findings(variants, demo),
        notes=_notes(variants, deployed, demo),
        files={name: item.onnx.path for name, item in deployed.items()},
        seconds=watch.seconds,
    )


def _texts(encoder: SentenceEncoder, demo: MiniLmDemo) -> _Texts:
    sentences = load_sentences(demo.train, demo.held_out, demo.seed)
    train, held_out = (tokenize(part, demo.length) for part in (sentences.train, sentences.held_out))
    return _Texts(train, held_out, embed(encoder, train), embed(encoder, held_out))


def _workload(encoder: SentenceEncoder, texts: _Texts, demo: MiniLmDemo) -> Workload:
    calibration = disturbed_batches(
        texts.train,
        texts.train_embeddings,
        count=demo.calibration_batches,
        noise=demo.disturbance,
        seed=demo.seed,
    )
    args = tuple(part[:2] for part in texts.train)
    return Workload(model=encoder, args=args, calibration=calibration, loss=embedding_loss, seed=demo.seed)


def _variant(work: Workload, choice: Choice, texts: _Texts, demo: MiniLmDemo) -> _Variant:
    pruned = prune(work, demo.pipeline(choice))
    module = copy.deepcopy(pruned.result.module()).eval()
    before = texts.score(module)
    distil(module, texts.train, texts.train_embeddings, demo.recovery, f"recovering ({choice})")
    return _Variant(graphopt.capture(module, work.args), pruned.error, before, texts.score(module))


def _file_name(choice: Choice) -> str:
    return str(choice).replace(" ", "-").replace("%", "")


def _rows(variants: Mapping[Choice, _Variant], deployed: Mapping[str, Deployment]) -> Iterator[Row]:
    for choice, variant in variants.items():
        yield replace(sized_row(f"{choice}, pruned", variant.program), quality=variant.before)
        row = sized_row(f"{choice}, recovered", variant.program, deployed.get(_file_name(choice)))
        yield replace(row, quality=variant.after)


def _findings(variants: Mapping[Choice, _Variant], demo: MiniLmDemo) -> dict[str, dict[str, str]]:
    """Say for every figure whether the first choice beats the baseline, before and after recovery."""
    first, baseline = variants[demo.shown[0]], variants[demo.baseline]
    against = f"{demo.shown[0]} against {demo.baseline}"
    return {
        f"{against}, pruned": verdicts(first.before, baseline.before, FIGURES),
        f"{against}, recovered": verdicts(first.after, baseline.after, FIGURES),
    }


def _notes(
    variants: Mapping[Choice, _Variant], deployed: Mapping[str, Deployment], demo: MiniLmDemo
) -> tuple[str, ...]:
    recovery = demo.recovery
    proved = max(variant.error for variant in variants.values())
    exported = max(item.relative_error for item in deployed.values())
    return (
        f"Cosine: to the original's embeddings of {demo.held_out} held-out sentences, the mean.",
        "Spearman: rank correlation of the similarities of all pairs of these sentences with the original's.",
        f"Recovery: {recovery.steps} steps of batch {recovery.batch_size} on other sentences, without labels.",
        timing_note(demo.batch_size, demo.rounds) + f" Sentences of {demo.length} tokens.",
        f"Proved: mask equals slice to {proved:.0e} on random weights; ONNX Runtime equals torch to {exported:.0e}.",
    )

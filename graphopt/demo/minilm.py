"""The demonstration on a real sentence encoder: prune it without labels, prove, recover by distillation, compare."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import graphopt
from graphopt.demo.deployment import Deployment, deploy, sized_row, timing_note
from graphopt.demo.distillation import DistillationConfig, distil, disturbed_batches, embedding_loss
from graphopt.demo.encoder import SentenceEncoder, Tokens, embed, load_encoder, tokenize
from graphopt.demo.pruning import Workload, prune
from graphopt.demo.report import DemoReport, Figure, Row
from graphopt.demo.sentences import load_sentences
from graphopt.demo.similarity import cosines, similarity_correlation
from graphopt.demo.spread import Spread, compare
from graphopt.demo.timing import Stopwatch, torch_threads
from graphopt.program import Program

FIGURES = {"cosine": Figure("cosine", "{:.3f}"), "correlation": Figure("Spearman", "{:.3f}")}


@dataclass(frozen=True, kw_only=True)
class MiniLmDemo:
    """Sizes, steps, seeds and threads of the demonstration.

    Attributes:
        passes: Text of the pipeline, with ``{macs}`` and ``{importance}`` where the budget and the score go.
        variants: Budget and score of each pruned model; the first is deployed.
        length: Tokens a sentence is cut or padded to.
        train: Sentences for calibration and recovery.
        held_out: Sentences for the comparison; none of the others.
        calibration_batches: Batches that gradients are taken on.
        disturbance: Standard deviation of the noise on calibration targets.
        recovery: How pruned models are trained on.
        batch_size: Batch of the timed calls.
        rounds: How often each call is timed.
        threads: Threads for torch and for ONNX Runtime.
        seed: Seeds sentences, noise and scores.
    """

    passes: str = "prune-channels{{macs={macs:g},importance={importance},scope=global,round_to=8,steps=2}}"
    variants: tuple[tuple[float, str], ...] = ((0.75, "taylor"), (0.5, "taylor"), (0.5, "random"))

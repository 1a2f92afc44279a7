"""``tokalign train-sft``: read prompts with responses, fine-tune a policy on them."""

from collections import Counter
from typing import Any

import torch

from tokalign.artifacts.result import StageResult
from tokalign.artifacts.schemas import Edit, Row, Sft
from tokalign.artifacts.writer import Writer, writing
from tokalign.config.stages import TrainSftConfig
from tokalign.data import dataset
from tokalign.data.conversation import contents
from tokalign.errors import InputError
from tokalign.models import loading, lora
from tokalign.models.batch import Batch, over
from tokalign.models.distributed import is_main_process, main_process_writes
from tokalign.models.prompts import renderable
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer
from tokalign.training.losses import ResponseLoss
from tokalign.training.saving import save_trained
from tokalign.training.supervised import fit


def run(config: TrainSftConfig) -> StageResult:
    """Train on −log p(response | prompt), averaged over the response tokens of a batch.

    Returns:
        The manifest; an empty result in all but the main process.
    """
    # 1. Read the data.
    data = _read(config)
    inputs = {"data": data.lineage}
    if config.model != "tiny":
        inputs["model"] = dataset.model_lineage(config.model)

    with main_process_writes(writing("policy", config, inputs), Writer(config.out, "policy", config, inputs)) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished) if is_main_process() else StageResult()

        # 2. Load the model, or create a tiny one with its tokenizer.
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        if config.model == "tiny":
            texts = (text for r in map(_as_sft, data) for text in (*contents(r.prompt), r.response))
            tokenizer = train_tiny(texts, config.vocab)
            model = loading.new_tiny(tokenizer, config.seed, config.max_length)
        else:
            tokenizer = Tokenizer.load(config.model, config)
            # Trained weights are float32 for any --dtype; only frozen weights (with --lora) have that type.
            model = loading.load_policy(config.model, config.dtype if config.lora else "float32")
            loading.check_vocabulary(model, tokenizer)
        max_tokens = loading.max_row_length(model, config.max_length)
        model.to(device)
        if config.lora:
            model = lora.adapt(model, config)

        # 3. Tokenize the rows, and skip those that are too long.
        data, notes = renderable(data, [tokenizer], config.strict)
        pairs = [(r.prompt, r.response) for r in map(_as_sft, data)]
        skipped: Counter[str] = Counter()
        examples = []
        prompts, responses = tokenizer.prompts([p for p, _ in pairs]), tokenizer.responses([r for _, r in pairs])
        for row, prompt, response in zip(data, prompts, responses, strict=True):
            if len(prompt) + len(response.ids) > max_tokens:
                skipped[over(config, max_tokens)] += 1
            else:
                examples.append({"id": row.id, "pair": (prompt, response.ids)})
        if not examples:
            raise InputError(f"every row is {over(config, max_tokens)}", where=config.data, remedy="raise --max-length")

        # 4. Train.
        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            pairs = [r["pair"] for r in rows]
            return {"id": [r["id"] for r in rows], "batch": Batch.of(pairs, tokenizer.pad_id, device)}

        lengths = [len(p) + len(r) for p, r in (e["pair"] for e in examples)]
        counts = [len(response) for _, response in (e["pair"] for e in examples)]
        fitted, model = fit("train-sft", ResponseLoss(model), examples, lengths, counts, collate, config, out.space)
        if not is_main_process():
            return StageResult()

        # 5. Save the model.
        model = save_trained(model, tokenizer, out.space, config)
        stats = {**fitted, "weights": model.num_parameters()}
        return StageResult.of(out.folder, out.commit(data.account(skipped.items()), stats, notes=notes))


def _read(config: TrainSftConfig) -> dataset.Rows[Any]:
    if dataset.holds_edits(config.data, config):
        return dataset.read_rows(config.data, Edit, "edits", options=config, limit=config.limit, keep=_why_not)
    return dataset.read_rows(config.data, Sft, "sft", options=config, limit=config.limit)


def _why_not(edit: Edit) -> str:
    """Return the reason for skipping an edit; "" if its edited response can be learnt."""
    if not edit.stands:
        return f"status {edit.status}"
    return "" if edit.edited.strip() else "empty response"


def _as_sft(row: Row) -> Sft:
    if isinstance(row, Edit):
        return Sft(id=row.id, prompt=row.prompt, response=row.edited)
    assert isinstance(row, Sft)
    return row

"""The headings of a command's help, and which options are listed under each."""

from dataclasses import Field
from typing import Any

from tokalign.config import options, sharding
from tokalign.config.options import Options

PANELS = (
    "Data", "Model", "Chat template", "Labels", "Candidates", "Judge", "Rewards", "Sampling", "Loss", "Optimisation",
    "LoRA and memory", "KL penalty and clipping", "EOS and length", "Evaluation", "Claude", "Annotation page",
    "Device", "Output and run",
)  # fmt: skip
"""All headings, in the order of the help."""
_SHARED = {
    options.RunOptions: "Output and run", options.StageOptions: "Output and run", options.ReadOptions: "Data",
    sharding.ShardOptions: "Data",
    options.TemplateOptions: "Chat template", options.SamplingOptions: "Sampling", options.ComputeOptions: "Device",
    options.TrainingOptions: "Optimisation", options.LoraOptions: "LoRA and memory", options.ClaudeOptions: "Claude",
}  # fmt: skip
"""Option group → heading of all its options."""
_BY_HEADING = {
    "Data": "preferences sft prompts prompt heldout test loose source editor min_similarity edits data labels pairs "
            "cut_prompts responses max_length to shards folders artifact id grep sort skip limit context full only "
            "title examples",
    "Model": "model vocab tokenizer level policy value_model reward_model",
    "Labels": "unit align merge whole_sentence omissions",
    "Loss": "weight_bad weight_neutral weight_good neutral label_smoothing",
    "Candidates": "candidate reference",
    "Judge": "judge judgements annotations rubric both_orders length_control difficulty",
    "Rewards": "reward_weight granularity reward normalise length_normalise scale centre",
    "Sampling": "n sample_batch",
    "Optimisation": "steps batch_size epochs minibatches microbatch lr value_lr max_grad_norm gamma gae_lambda vf_coef",
    "KL penalty and clipping": "kl_coef kl_target kl_estimator clip_range importance_cap value_clip stop_kl",
    "EOS and length": "missing_eos_penalty length_guard",
    "Evaluation": "eval_prompts eval_judge eval_every patience",
    "Annotation page": "port annotator open",
    "Claude": "show_chosen re_ask",
    "Output and run": "out fresh workers max_minutes save_every sample_every look_samples report_to table_format json "
            "quiet pager",
}  # fmt: skip
"""Heading → names of other options."""
_BY_COMMAND = {
    ("EditConfig", "prompt"): "Claude",
    ("GenerateConfig", "batch_size"): "Sampling",
    ("GenerateConfig", "reward_model"): "Sampling",
    ("ScoreConfig", "batch_size"): "Output and run",
    ("TrainPpoConfig", "reward_model"): "Rewards",
    ("EvalWinrateConfig", "reward_model"): "Judge",
    ("EvalWinrateConfig", "batch_size"): "Sampling",
}
"""Exceptions: dataclass and option → heading."""
_PANEL = {name: panel for panel, names in _BY_HEADING.items() for name in names.split()}
OTHER = "Options"
"""Heading of an option that has no other."""


def panel(command: type[Options], f: Field[Any]) -> str:
    """Return the heading under which an option of a command is listed; :data:`OTHER` if it has none."""
    if heading := _BY_COMMAND.get((command.__name__, f.name)):
        return heading
    declared = next(base for base in command.__mro__ if f.name in vars(base).get("__annotations__", {}))
    return _SHARED.get(declared) or _PANEL.get(f.name, OTHER)

"""Every llama-server flag that the embedded engine understands, as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from .values import (
    Flag,
    Job,
    UsageError,
    choice,
    either,
    file_text,
    folder,
    layers,
    listed,
    own,
    pick,
    real,
    sampling,
    seed,
    switch,
    text,
    threads,
    value,
    whole,
)

_ON: Final = ("on", "enabled", "true", "1")
_OFF: Final = ("off", "disabled", "false", "0")
_AUTO: Final = ("auto", "-1")
_EXPERTS: Final = r"\.ffn_(up|down|gate|gate_up)_(ch)?exps"  # tensors of a mixture's experts
_MAX_SPLIT: Final = 128  # entries of CommonParams.tensor_split
_LOUDEST: Final = 2**31 - 1  # what -v sets


# ---------------------------------------------------------------- flags with a rule of their own


def _context(job: Job, raw: str) -> None:
    job.put("n_ctx", whole(raw))
    if whole(raw) == 0:  # all that the model was trained for: not to be shrunk to what is free
        job.put("fit_params_min_ctx", 2**31 - 1)


def _parallel(job: Job, raw: str) -> None:
    if whole(raw) == 0:
        raise UsageError("there must be at least one slot")
    job.put("n_parallel", whole(raw))


def _host(job: Job, raw: str) -> None:
    hosts = listed(raw)
    if not hasattr(job.params, "hostnames") and len(hosts) == 1:
        job.put("hostname", hosts[0])  # wheels before 2026.10
    else:
        job.put("hostnames", hosts)


def _alias(job: Job, raw: str) -> None:
    job.put("model_alias", set(job.params.model_alias) | set(listed(raw)))


def _keys(job: Job, raw: str) -> None:
    lines = [line for line in file_text(raw).splitlines() if line and not line.startswith("#")]
    job.put("api_keys", [*job.params.api_keys, *lines])


def _flash(job: Job, raw: str) -> None:
    names = {**dict.fromkeys(_ON, "ENABLED"), **dict.fromkeys(_OFF, "DISABLED")}
    member = pick(raw, {**names, **dict.fromkeys(_AUTO, "AUTO")})
    job.put("flash_attn_type", job.enum("llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{member}"))


def _fit(job: Job, raw: str) -> None:
    pick(raw, dict.fromkeys((*_ON, *_OFF), ""))
    job.put("fit_params", raw in _ON)


def _kwargs(job: Job, raw: str) -> None:
    try:
        wanted = json.loads(raw)
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        raise UsageError(f"{raw!r} is not a JSON object")
    _template(job, {key: json.dumps(item) for key, item in wanted.items()})


def _template(job: Job, wanted: Mapping[str, str]) -> None:
    job.put("default_template_kwargs", {**dict(job.params.default_template_kwargs), **wanted})


def _reasoning(job: Job, raw: str) -> None:
    names = {**dict.fromkeys(_ON, "1"), **dict.fromkeys(_OFF, "0"), **dict.fromkeys(_AUTO, "-1")}
    wanted = int(pick(raw, names))
    job.put("enable_reasoning", wanted)
    if wanted >= 0:
        _template(job, {"enable_thinking": json.dumps(bool(wanted))})


def _effort(job: Job, raw: str) -> None:
    kept = dict(job.params.default_template_kwargs)
    kept.pop("reasoning_effort", None)
    if raw != "default":
        kept["reasoning_effort"] = json.dumps(raw)
    job.put("default_template_kwargs", kept)


def _preserve(on: bool) -> Callable[[Job, str], None]:
    def apply(job: Job, _: str) -> None:
        _template(job, {"preserve_reasoning": json.dumps(on)})
        job.put("preserve_reasoning_specified", True)

    return apply


def _rerank(job: Job, _: str) -> None:
    job.put("embedding", True)
    job.put("pooling_type", job.enum("llama_pooling_type", "LLAMA_POOLING_TYPE_RANK"))


def _lora(job: Job, raw: str) -> None:
    _lora_scaled(job, ",".join(f"{path}:1" for path in listed(raw)))


def _lora_scaled(job: Job, raw: str) -> None:
    added = []
    for item in listed(raw):
        path, colon, scale = item.rpartition(":")
        if not colon or not path:
            raise UsageError(f"{item!r} is not FILE:SCALE")
        added.append(job.module.CommonAdapterLoraInfo(path=path, scale=real(scale)))
    job.put("lora_adapters", [*job.params.lora_adapters, *added])


def _split(job: Job, raw: str) -> None:
    shares = [real(share) for share in raw.replace("/", ",").split(",")]
    if len(shares) > _MAX_SPLIT:
        raise UsageError(f"more than {_MAX_SPLIT} shares")
    job.put("tensor_split", shares + [0.0] * (_MAX_SPLIT - len(shares)))


def _overrides(job: Job, raw: str) -> None:
    present = str(job.params.tensor_buft_overrides)
    job.put("tensor_buft_overrides", f"{present},{raw}" if present else raw)


def _cpu_experts(job: Job, raw: str) -> None:
    for layer in range(whole(raw)):
        _overrides(job, rf"blk\.{layer}{_EXPERTS}=CPU")


def _samplers(job: Job, raw: str) -> None:
    job.put("sampling.samplers", raw)
    kept = str(job.params.sampling.samplers)
    if kept.split(";") != raw.split(";"):  # unknown names are left out in silence
        raise UsageError(f"{raw!r} has an unknown sampler; understood: {kept or 'none'}")
    mark = job.enum("common_params_sampling_config", "COMMON_PARAMS_SAMPLING_CONFIG_SAMPLERS")
    chosen = int(job.params.sampling.user_sampling_config) | int(mark)
    job.put("sampling.user_sampling_config", chosen)


def _repeat_last(job: Job, raw: str) -> None:
    _last_n.apply(job, raw)
    job.put("sampling.n_prev", max(int(job.params.sampling.n_prev), whole(raw)))


def _speculative(job: Job, raw: str) -> None:
    wanted = [
        job.enum("common_speculative_type", f"COMMON_SPECULATIVE_TYPE_{pick(kind, _DRAFTING)}")
        for kind in listed(raw)
    ]
    job.put("speculative.types", wanted)


def _verbose(job: Job, _: str) -> None:
    job.put("verbosity", _LOUDEST)


def _timeout(job: Job, raw: str) -> None:
    job.put("timeout_read", whole(raw))
    job.put("timeout_write", whole(raw))


def _rope_scale(job: Job, raw: str) -> None:
    if real(raw) <= 0:
        raise UsageError(f"{raw!r} is not above 0")
    job.put("rope_freq_scale", 1.0 / real(raw))


_DRAFTING: Final = own(
    *("none", "draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark"),
    *("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"),
)
_last_n: Final = sampling("penalty_last_n", "--repeat-last-n", bit="PENALTY_LAST_N", read=whole)
_KV: Final = own("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")

FLAGS: Final = (
    # where it listens, and who may ask
    Flag(("--host",), _host),
    value("port", "--port"),
    switch("reuse_port", True, "--reuse-port"),
    Flag(("--api-key-file",), _keys),
    text("api_prefix", "--api-prefix"),
    text("cors_origins", "--cors-origins"),
    Flag(("-to", "--timeout"), _timeout),
    value("n_threads_http", "--threads-http"),
    value("sse_ping_interval", "--sse-ping-interval"),
    *either("ui", ("--ui", "--webui",), ("--no-ui", "--no-webui",)),
    switch("endpoint_metrics", True, "--metrics"),
    switch("endpoint_props", True, "--props"),
    *either("endpoint_slots", ("--slots",), ("--no-slots",)),
    value("verbosity", "-lv", "--verbosity", "--log-verbosity"),
    Flag(("-v", "--verbose", "--log-verbose"), _verbose, False),
    switch("offline", True, "--offline"),
    # the model and its memory
    text("model.path", "-m", "--model"),
    Flag(("-a", "--alias"), _alias),
    Flag(("-c", "--ctx-size"), _context),
    Flag(("-np", "--parallel"), _parallel),
    value("n_batch", "-b", "--batch-size"),
    value("n_ubatch", "-ub", "--ubatch-size"),
    *either("kv_unified", ("-kvu", "--kv-unified",), ("-no-kvu", "--no-kv-unified",)),
    value("kv_unified_per_slot", "--kv-unified-per-slot"),
    choice("cache_type_k", "ggml_type", "GGML_TYPE_", _KV, "-ctk", "--cache-type-k"),
    choice("cache_type_v", "ggml_type", "GGML_TYPE_", _KV, "-ctv", "--cache-type-v"),
    Flag(("-fa", "--flash-attn"), _flash),
    switch("swa_full", True, "--swa-full"),
    value("cache_ram_mib", "-cram", "--cache-ram"),
    value("n_cache_reuse", "--cache-reuse"),
    *either("cache_prompt", ("--cache-prompt",), ("--no-cache-prompt",)),
    *either("cache_idle_slots", ("--cache-idle-slots",), ("--no-cache-idle-slots",)),
    value("n_ctx_checkpoints", "-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"),
    value("checkpoint_min_step", "-cms", "--checkpoint-min-step"),
    value("slot_save_path", "--slot-save-path", read=folder),
    value("slot_prompt_similarity", "-sps", "--slot-prompt-similarity", read=real),
    value("sleep_idle_seconds", "--sleep-idle-seconds"),
    *either("ctx_shift", ("--context-shift",), ("--no-context-shift",)),
    *either("cont_batching", ("-cb", "--cont-batching",), ("-nocb", "--no-cont-batching",)),
    *either("warmup", ("--warmup",), ("--no-warmup",)),
    value("n_keep", "--keep"),
    value("n_predict", "-n", "--predict", "--n-predict"),
    switch("check_tensors", True, "--check-tensors"),
    choice("load_mode", "llama_load_mode", "LLAMA_LOAD_MODE_",
           {**own("auto", "none", "mmap", "mlock"), "mmap+mlock": "MMAP_MLOCK", "dio": "DIRECT_IO"},
           "-lm", "--load-mode"),
    Flag(("-fit", "--fit"), _fit),
    # processors
    value("cpuparams.n_threads", "-t", "--threads", read=threads),
    value("cpuparams_batch.n_threads", "-tb", "--threads-batch", read=threads),
    value("cpuparams.poll", "--poll"),
    value("n_gpu_layers", "-ngl", "--gpu-layers", "--n-gpu-layers", read=layers),
    choice("split_mode", "llama_split_mode", "LLAMA_SPLIT_MODE_",
           own("none", "layer", "row", "tensor"), "-sm", "--split-mode"),
    Flag(("-ts", "--tensor-split"), _split),
    value("main_gpu", "-mg", "--main-gpu"),
    *either("no_kv_offload", ("-nkvo", "--no-kv-offload",), ("-kvo", "--kv-offload",)),
    *either("no_op_offload", ("--no-op-offload",), ("--op-offload",)),
    *either("no_extra_bufts", ("-nr", "--no-repack",), ("--repack",)),
    Flag(("-ot", "--override-tensor"), _overrides),
    Flag(("-cmoe", "--cpu-moe"), lambda job, _: _overrides(job, f"{_EXPERTS}=CPU"), False),
    Flag(("-ncmoe", "--n-cpu-moe"), _cpu_experts),
    # what it is for
    switch("embedding", True, "--embedding", "--embeddings"),
    Flag(("--rerank", "--reranking"), _rerank, False),
    choice("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_",
           own("none", "mean", "cls", "last", "rank"), "--pooling"),
    value("embd_normalize", "--embd-normalize"),
    text("mmproj.path", "-mm", "--mmproj"),
    *either("mmproj_use_gpu", ("--mmproj-offload",), ("--no-mmproj-offload",)),
    value("image_min_tokens", "--image-min-tokens"),
    value("image_max_tokens", "--image-max-tokens"),
    Flag(("--lora",), _lora),
    Flag(("--lora-scaled",), _lora_scaled),
    switch("lora_init_without_apply", True, "--lora-init-without-apply"),
    # conversation
    *either("use_jinja", ("--jinja",), ("--no-jinja",)),
    text("chat_template", "--chat-template"),
    value("chat_template", "--chat-template-file", read=file_text),
    Flag(("--chat-template-kwargs",), _kwargs),
    choice("reasoning_format", "common_reasoning_format", "COMMON_REASONING_FORMAT_",
           own("none", "auto", "deepseek", "deepseek-legacy"), "--reasoning-format"),
    Flag(("-rea", "--reasoning"), _reasoning),
    Flag(("--reasoning-effort",), _effort),
    value("sampling.reasoning_budget_tokens", "--reasoning-budget"),
    text("sampling.reasoning_budget_message", "--reasoning-budget-message"),
    Flag(("--reasoning-preserve",), _preserve(True), False),
    Flag(("--no-reasoning-preserve",), _preserve(False), False),
    *either("prefill_assistant", ("--prefill-assistant",), ("--no-prefill-assistant",)),
    switch("special", True, "-sp", "--special"),
    # sampling defaults
    Flag(("--samplers",), _samplers),
    value("sampling.seed", "-s", "--seed", read=seed),
    sampling("temp", "--temp", "--temperature", bit="TEMP"),
    sampling("top_k", "--top-k", bit="TOP_K", read=whole),
    sampling("top_p", "--top-p", bit="TOP_P"),
    sampling("min_p", "--min-p", bit="MIN_P"),
    sampling("typ_p", "--typical", "--typical-p"),
    sampling("xtc_probability", "--xtc-probability", bit="XTC_PROBABILITY"),
    sampling("xtc_threshold", "--xtc-threshold", bit="XTC_THRESHOLD"),
    Flag(_last_n.names, _repeat_last),
    sampling("penalty_repeat", "--repeat-penalty", bit="PENALTY_REPEAT"),
    sampling("penalty_present", "--presence-penalty"),
    sampling("penalty_freq", "--frequency-penalty"),
    sampling("dry_multiplier", "--dry-multiplier"),
    sampling("dry_base", "--dry-base"),
    sampling("dry_allowed_length", "--dry-allowed-length", read=whole),
    sampling("dry_penalty_last_n", "--dry-penalty-last-n", read=whole),
    sampling("dynatemp_range", "--dynatemp-range"),
    sampling("dynatemp_exponent", "--dynatemp-exp"),
    sampling("mirostat", "--mirostat", bit="MIROSTAT", read=whole),
    sampling("mirostat_eta", "--mirostat-lr", bit="MIROSTAT_ETA"),
    sampling("mirostat_tau", "--mirostat-ent", bit="MIROSTAT_TAU"),
    switch("sampling.ignore_eos", True, "--ignore-eos"),
    # longer contexts than the model was trained for
    choice("rope_scaling_type", "llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_",
           own("none", "linear", "yarn"), "--rope-scaling"),
    Flag(("--rope-scale",), _rope_scale),
    value("rope_freq_base", "--rope-freq-base", read=real),
    value("rope_freq_scale", "--rope-freq-scale", read=real),
    value("yarn_orig_ctx", "--yarn-orig-ctx"),
    value("yarn_ext_factor", "--yarn-ext-factor", read=real),
    value("yarn_attn_factor", "--yarn-attn-factor", read=real),
    value("yarn_beta_slow", "--yarn-beta-slow", read=real),
    value("yarn_beta_fast", "--yarn-beta-fast", read=real),
    # drafting
    text("speculative.draft.mparams.path", "-md", "--model-draft", "--spec-draft-model"),
    Flag(("--spec-type",), _speculative),
    value("speculative.draft.n_max", "--spec-draft-n-max"),
    value("speculative.draft.n_min", "--spec-draft-n-min"),
    value("speculative.draft.p_min", "--spec-draft-p-min", "--draft-p-min", read=real),
    value("speculative.draft.p_split", "--spec-draft-p-split", "--draft-p-split", read=real),
    value("speculative.draft.n_gpu_layers", "-ngld", "--gpu-layers-draft",
          "--n-gpu-layers-draft", "--spec-draft-ngl", read=layers),
    value("speculative.draft.cpuparams.n_threads", "-td", "--threads-draft",
          "--spec-draft-threads", read=threads),
    choice("speculative.draft.cache_type_k", "ggml_type", "GGML_TYPE_", _KV, "-ctkd",
           "--cache-type-k-draft", "--spec-draft-type-k"),
    choice("speculative.draft.cache_type_v", "ggml_type", "GGML_TYPE_", _KV, "-ctvd",
           "--cache-type-v-draft", "--spec-draft-type-v"),
)  # fmt: skip


def begin(job: Job) -> None:
    """llama-server's own defaults, where the wheel's differ."""
    job.put("port", 8080)
    job.put("n_parallel", -1)
    _template(job, {"preserve_reasoning": "true"})


def complete(job: Job, seen: set[str]) -> None:
    """What llama-server derives from the flags that it was given. ``seen``: their first names."""
    if not job.params.model.path:
        raise UsageError("-m: a model is required")
    if "-t" in seen and "-tb" not in seen:
        job.put("cpuparams_batch.n_threads", job.params.cpuparams.n_threads)
    if "-md" in seen and "--spec-type" not in seen:
        _speculative(job, "draft-simple")

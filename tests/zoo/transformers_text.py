"""Text models of transformers: encoders, decoders, sequence to sequence."""

from collections.abc import Callable
from typing import Any

from zoo.catalogue import Inputs, integers, tensors

Options = dict[str, Any]
Row = tuple[str, str, Options, Callable[[], Inputs]]
"""Name of the entry, class of transformers, options of its configuration, inputs."""

LAYERS: Options = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 96}
TOKENS: Options = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER: Options = LAYERS | TOKENS | {"max_position_embeddings": 32}
DECODER: Options = ENCODER | {"use_cache": False}
GROUPED: Options = DECODER | {"num_key_value_heads": 2}
_GPT: Options = TOKENS | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "use_cache": False}
EXPERTS: Options = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
GEMMA: Options = GROUPED | {"head_dim": 16}
_MAMBA: Options = TOKENS | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "use_cache": False}
PAIR: Options = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 32,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
SEQUENCES: Options = TOKENS | PAIR
T5: Options = {
    "vocab_size": 64,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
}

_JAMBA: Options = {
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "num_experts": 4,
    "mamba_d_state": 8,
    "mamba_dt_rank": 8,
    "use_mamba_kernels": False,
}
_PROPHET: Options = {
    "hidden_size": 64,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 32,
    "decoder_start_token_id": 1,
    "use_cache": False,
}

IDS = integers(64, 2, 12)


def cacheless(inputs: Callable[[], Inputs]) -> Callable[[], Inputs]:
    def make() -> Inputs:
        args, kwargs = inputs()
        return args, kwargs | {"use_cache": False}

    return make


_text = tensors(input_ids=IDS)
_pair = tensors(input_ids=IDS, decoder_input_ids=integers(64, 2, 8))

_TEXT: tuple[tuple[str, str, Options], ...] = (
    ("albert", "AlbertModel", ENCODER | {"embedding_size": 32}),
    ("bert", "BertForSequenceClassification", ENCODER),
    ("convbert", "ConvBertModel", ENCODER | {"embedding_size": 64, "conv_kernel_size": 3}),
    (
        "deberta_v2",
        "DebertaV2Model",
        ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    ),
    (
        "distilbert",
        "DistilBertForMaskedLM",
        {"vocab_size": 64, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
    ),
    ("electra", "ElectraModel", ENCODER | {"embedding_size": 32}),
    ("esm", "EsmModel", ENCODER | {"position_embedding_type": "rotary"}),
    (
        "mobilebert",
        "MobileBertModel",
        ENCODER | {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    ("modernbert", "ModernBertModel", ENCODER | {"global_attn_every_n_layers": 2, "local_attention": 8}),
    ("mpnet", "MPNetModel", ENCODER),
    ("roberta", "RobertaForMaskedLM", ENCODER),
    ("roformer", "RoFormerModel", ENCODER | {"embedding_size": 64}),
    ("squeezebert", "SqueezeBertModel", ENCODER | {"embedding_size": 64}),
    ("xlm_roberta", "XLMRobertaModel", ENCODER),
)
_DECODERS: tuple[tuple[str, str, Options], ...] = (
    ("bloom", "BloomForCausalLM", TOKENS | {"hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False}),
    ("codegen", "CodeGenForCausalLM", _GPT | {"rotary_dim": 8}),
    ("cohere", "CohereForCausalLM", GROUPED),
    (
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        DECODER
        | EXPERTS
        | {
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "q_lora_rank": 32,
            "kv_lora_rank": 24,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
        },
    ),
    (
        "falcon",
        "FalconForCausalLM",
        TOKENS | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "use_cache": False},
    ),
    (
        "falcon_grouped",
        "FalconForCausalLM",
        TOKENS
        | {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "use_cache": False,
        },
    ),
    ("falcon_mamba", "FalconMambaForCausalLM", _MAMBA),
    ("gemma", "GemmaForCausalLM", GEMMA),
    ("gemma2", "Gemma2ForCausalLM", GEMMA | {"sliding_window": 8}),
    ("gemma3", "Gemma3ForCausalLM", GEMMA | {"sliding_window": 8}),
    ("glm4", "Glm4ForCausalLM", GEMMA),
    ("gpt2", "GPT2LMHeadModel", _GPT),
    ("gpt_bigcode", "GPTBigCodeForCausalLM", _GPT),
    (
        "gpt_neo",
        "GPTNeoForCausalLM",
        TOKENS
        | {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 32,
            "use_cache": False,
        },
    ),
    ("gpt_neox", "GPTNeoXForCausalLM", DECODER),
    ("gpt_oss", "GptOssForCausalLM", GEMMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
    ("gptj", "GPTJForCausalLM", _GPT | {"rotary_dim": 8}),
    ("granite", "GraniteForCausalLM", GROUPED),
    ("helium", "HeliumForCausalLM", GEMMA),
    ("jamba", "JambaForCausalLM", GROUPED | _JAMBA),
    ("lfm2", "Lfm2ForCausalLM", GROUPED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16}),
    ("llama", "LlamaForCausalLM", GROUPED),
    ("llama_6_heads", "LlamaForCausalLM", GROUPED | {"hidden_size": 96, "num_attention_heads": 6}),
    ("mamba", "MambaForCausalLM", _MAMBA),
    (
        "mamba2",
        "Mamba2ForCausalLM",
        _MAMBA | {"head_dim": 16, "num_heads": 4, "expand": 2, "n_groups": 2, "chunk_size": 4},
    ),
    ("mistral", "MistralForCausalLM", GROUPED | {"sliding_window": 8}),
    ("mixtral", "MixtralForCausalLM", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    (
        "mpt",
        "MptForCausalLM",
        TOKENS | {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 32, "use_cache": False},
    ),
    ("nemotron", "NemotronForCausalLM", GROUPED),
    ("olmo2", "Olmo2ForCausalLM", GROUPED),
    (
        "opt",
        "OPTForCausalLM",
        TOKENS
        | {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 96,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 32,
            "use_cache": False,
        },
    ),
    ("persimmon", "PersimmonForCausalLM", DECODER),
    ("phi", "PhiForCausalLM", GROUPED),
    ("phi3", "Phi3ForCausalLM", GROUPED),
    ("qwen2", "Qwen2ForCausalLM", GROUPED),
    ("qwen2_moe", "Qwen2MoeForCausalLM", GROUPED | EXPERTS | {"shared_expert_intermediate_size": 48}),
    ("qwen3", "Qwen3ForCausalLM", GEMMA),
    (
        "qwen3_next",
        "Qwen3NextForCausalLM",
        GEMMA
        | EXPERTS
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "shared_expert_intermediate_size": 48,
        },
    ),
    (
        "rwkv",
        "RwkvForCausalLM",
        TOKENS | {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 16, "use_cache": False},
    ),
    ("stablelm", "StableLmForCausalLM", GROUPED),
    ("smollm3", "SmolLM3ForCausalLM", GROUPED | {"no_rope_layer_interval": 2}),
    ("starcoder2", "Starcoder2ForCausalLM", GROUPED),
)
_PAIRS: tuple[tuple[str, str, Options], ...] = (
    ("bart", "BartForConditionalGeneration", SEQUENCES),
    ("m2m_100", "M2M100ForConditionalGeneration", SEQUENCES),
    ("marian", "MarianMTModel", SEQUENCES),
    ("mbart", "MBartForConditionalGeneration", SEQUENCES),
    ("pegasus", "PegasusForConditionalGeneration", SEQUENCES),
    ("prophetnet", "ProphetNetForConditionalGeneration", TOKENS | _PROPHET),
    ("t5", "T5ForConditionalGeneration", T5),
    ("t5_gated", "T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
)
ROWS: tuple[Row, ...] = (
    *((*row, _text) for row in _TEXT),
    *((*row, cacheless(_text)) for row in _DECODERS),
    *((*row, cacheless(_pair)) for row in _PAIRS),
)
"""Every row of this file."""

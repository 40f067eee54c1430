"""Text models of transformers with state spaces, recurrences, many experts, or attention other than full."""

import torch
from zoo.catalogue import integers, tensors
from zoo.transformers_text import ENCODER, EXPERTS, GEMMA, GROUPED, IDS, SEQUENCES, T5, TOKENS, Options, Row, cacheless

_STATES: Options = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_chunk_size": 4,
}
_TINY_STATES: Options = {"mamba_d_state": 8, "use_mamba_kernels": False}
_LATENT: Options = {
    "q_lora_rank": 32,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
_MOE: Options = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
_text = tensors(input_ids=IDS)
_masked_pair = tensors(
    input_ids=IDS,
    attention_mask=lambda: torch.ones(2, 12, dtype=torch.int64),
    decoder_input_ids=integers(64, 2, 8),
    decoder_attention_mask=lambda: torch.ones(2, 8, dtype=torch.int64),
)

_DECODERS: tuple[tuple[str, str, Options], ...] = (
    ("bamba", "BambaForCausalLM", GROUPED | _STATES | {"attn_layer_indices": [1]}),
    ("bitnet", "BitNetForCausalLM", GROUPED),
    (
        "dbrx",
        "DbrxForCausalLM",
        TOKENS
        | {
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 32,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
            "use_cache": False,
        },
    ),
    (
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        GROUPED
        | EXPERTS
        | _LATENT
        | {"n_routed_experts": 4, "first_k_dense_replace": 1, "topk_method": "greedy", "head_dim": 8},
    ),
    ("diffllama", "DiffLlamaForCausalLM", GROUPED),
    ("exaone4", "Exaone4ForCausalLM", GEMMA | {"sliding_window": 8}),
    (
        "falcon_h1",
        "FalconH1ForCausalLM",
        GROUPED | _STATES | {"mamba_d_ssm": 128, "head_dim": 16},
    ),
    ("granitemoe", "GraniteMoeForCausalLM", _MOE),
    (
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        _MOE | _STATES | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48},
    ),
    ("jetmoe", "JetMoeForCausalLM", _MOE | {"kv_channels": 16, "num_key_value_heads": 4}),
    (
        "minimax",
        "MiniMaxForCausalLM",
        _MOE | {"layer_types": ["linear_attention", "full_attention"], "head_dim": 16, "block_size": 4},
    ),
    ("olmoe", "OlmoeForCausalLM", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    ("phimoe", "PhimoeForCausalLM", _MOE),
    ("qwen3_moe", "Qwen3MoeForCausalLM", GEMMA | EXPERTS),
    (
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        GEMMA | {"num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 8},
    ),
    (
        "xlstm",
        "xLSTMForCausalLM",
        TOKENS
        | {"hidden_size": 64, "embedding_dim": 64, "num_hidden_layers": 2, "num_blocks": 2, "num_heads": 4}
        | {"chunk_size": 4, "use_cache": False, "return_last_states": False},
    ),
    (
        "zamba",
        "ZambaForCausalLM",
        GROUPED
        | _TINY_STATES
        | {
            "attention_hidden_size": 128,
            "attention_head_dim": 32,
            "num_key_value_heads": 4,
            "mamba_dt_rank": 8,
            "num_hidden_layers": 3,
            "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
        },
    ),
    (
        "zamba2",
        "Zamba2ForCausalLM",
        GROUPED
        | _TINY_STATES
        | {
            "n_mamba_heads": 8,
            "mamba_headdim": 16,
            "chunk_size": 4,
            "num_key_value_heads": 4,
            "num_mem_blocks": 1,
            "adapter_rank": 16,
            "layers_block_type": ["linear_attention", "hybrid"],
        },
    ),
)
_ENCODERS: tuple[tuple[str, str, Options], ...] = (
    ("big_bird", "BigBirdModel", ENCODER | {"attention_type": "original_full"}),
    (
        "canine",
        "CanineModel",
        ENCODER | {"num_hash_buckets": 64, "local_transformer_stride": 4, "max_position_embeddings": 64},
    ),
    ("deberta", "DebertaModel", ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    ("fnet", "FNetModel", ENCODER | {"tpu_short_seq_length": 12}),
    (
        "funnel",
        "FunnelModel",
        TOKENS
        | {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 96},
    ),
    ("ibert", "IBertModel", ENCODER),
    ("longformer", "LongformerModel", ENCODER | {"attention_window": [4, 4]}),
    ("nystromformer", "NystromformerModel", ENCODER | {"num_landmarks": 4, "segment_means_seq_len": 12}),
    ("xlnet", "XLNetModel", TOKENS | {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 96}),
)
_PAIRS: tuple[tuple[str, str, Options], ...] = (
    ("led", "LEDForConditionalGeneration", SEQUENCES | {"attention_window": 4, "max_encoder_position_embeddings": 32}),
    ("longt5", "LongT5ForConditionalGeneration", T5 | {"local_radius": 3, "encoder_attention_type": "local"}),
    (
        "switch_transformers",
        "SwitchTransformersForConditionalGeneration",
        T5 | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "expert_capacity": 8},
    ),
    ("t5gemma", "T5GemmaForConditionalGeneration", {"encoder": GEMMA, "decoder": GEMMA} | {"vocab_size": 64}),
)

ROWS: tuple[Row, ...] = (
    *((*row, cacheless(_text)) for row in _DECODERS),
    *((*row, _text) for row in _ENCODERS),
    *((*row, cacheless(_masked_pair)) for row in _PAIRS),
)
"""Every row of this file."""

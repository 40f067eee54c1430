"""Speech, time series and plain array models of transformers."""

from zoo.catalogue import integers, normal, tensors
from zoo.transformers_text import LAYERS, SEQUENCES, Options, Row, cacheless

_SPEECH: Options = LAYERS | {
    "vocab_size": 32,
    "conv_dim": (24, 32),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SERIES: Options = {"num_input_channels": 4, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 64}
_wave = tensors(input_values=normal(2, 640))

ROWS: tuple[Row, ...] = (
    (
        "audio_spectrogram_transformer",
        "ASTModel",
        LAYERS | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
        tensors(input_values=normal(2, 32, 16)),
    ),
    ("hubert", "HubertModel", _SPEECH, _wave),
    (
        "patchtsmixer",
        "PatchTSMixerForPrediction",
        _SERIES | {"num_layers": 2, "prediction_length": 8},
        tensors(past_values=normal(2, 32, 4)),
    ),
    (
        "patchtst",
        "PatchTSTForPrediction",
        _SERIES | {"num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96, "prediction_length": 8},
        tensors(past_values=normal(2, 32, 4)),
    ),
    (
        "perceiver",
        "PerceiverModel",
        {
            "num_latents": 8,
            "d_latents": 64,
            "d_model": 48,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
        },
        tensors(inputs=normal(2, 12, 48)),
    ),
    (
        "speech_to_text",
        "Speech2TextForConditionalGeneration",
        SEQUENCES
        | {
            "input_feat_per_channel": 16,
            "input_channels": 1,
            "conv_channels": 32,
            "max_source_positions": 64,
            "max_target_positions": 32,
        },
        cacheless(tensors(input_features=normal(2, 32, 16), decoder_input_ids=integers(64, 2, 8))),
    ),
    ("wav2vec2", "Wav2Vec2ForCTC", _SPEECH, _wave),
    (
        "wav2vec2_layer_norm",
        "Wav2Vec2Model",
        _SPEECH | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
        _wave,
    ),
    ("wavlm", "WavLMModel", _SPEECH, _wave),
    (
        "whisper",
        "WhisperForConditionalGeneration",
        SEQUENCES | {"num_mel_bins": 16, "max_source_positions": 16, "max_target_positions": 32},
        cacheless(tensors(input_features=normal(2, 16, 32), decoder_input_ids=integers(64, 2, 8))),
    ),
)
"""Every row of this file."""

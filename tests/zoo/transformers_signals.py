"""Speech, time series and plain array models of transformers."""

import torch
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
_PAIRED: Options = {
    "prediction_length": 8,
    "context_length": 16,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 2,
    "d_model": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "use_cache": False,
}
_VOCODER: Options = {
    "model_in_dim": 16,
    "upsample_initial_channel": 64,
    "upsample_rates": [4, 2],
    "upsample_kernel_sizes": [8, 4],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}
_history = tensors(
    past_values=normal(2, 19),
    past_time_features=normal(2, 19, 2),
    past_observed_mask=lambda: torch.ones(2, 19),
    future_values=normal(2, 8),
    future_time_features=normal(2, 8, 2),
)
_wave = tensors(input_values=normal(2, 640))

ROWS: tuple[Row, ...] = (
    (
        "audio_spectrogram_transformer",
        "ASTModel",
        LAYERS | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
        tensors(input_values=normal(2, 32, 16)),
    ),
    (
        "bark_semantic",
        "BarkSemanticModel",
        {"block_size": 32, "input_vocab_size": 64, "output_vocab_size": 64, "hidden_size": 64}
        | {"num_layers": 2, "num_heads": 4, "use_cache": False},
        cacheless(tensors(input_ids=integers(64, 2, 12))),
    ),
    (
        "autoformer",
        "AutoformerModel",
        _PAIRED | {"moving_average": 5, "label_length": 4, "encoder_layers": 2, "decoder_layers": 2},
        _history,
    ),
    ("informer", "InformerModel", _PAIRED | {"attention_type": "full", "distil": False}, _history),
    ("time_series_transformer", "TimeSeriesTransformerModel", _PAIRED, _history),
    (
        "dac",
        "DacModel",
        {"encoder_hidden_size": 16, "decoder_hidden_size": 64, "hidden_size": 64, "downsampling_ratios": [2, 4]}
        | {"upsampling_ratios": [4, 2], "n_codebooks": 2, "codebook_size": 32},
        tensors(input_values=normal(2, 1, 256)),
    ),
    (
        "encodec",
        "EncodecModel",
        {"hidden_size": 32, "num_filters": 16, "upsampling_ratios": [4, 2], "codebook_size": 32, "codebook_dim": 32},
        tensors(input_values=normal(2, 1, 256)),
    ),
    (
        "fastspeech2_hifigan",
        "FastSpeech2ConformerHifiGan",
        _VOCODER,
        tensors(spectrogram=normal(2, 8, 16)),
    ),
    (
        "mimi_encoder",
        "MimiEncoderModel",
        LAYERS | {"num_filters": 16, "upsampling_ratios": [4, 2], "num_key_value_heads": 4, "head_dim": 16},
        tensors(input_values=normal(2, 1, 256)),
    ),
    (
        "moonshine",
        "MoonshineForConditionalGeneration",
        {
            "vocab_size": 64,
            "hidden_size": 64,
            "intermediate_size": 96,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
        cacheless(tensors(input_values=normal(2, 4096), decoder_input_ids=integers(64, 2, 8))),
    ),
    (
        "musicgen_decoder",
        "MusicgenForCausalLM",
        {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96}
        | {"num_codebooks": 2, "max_position_embeddings": 32, "pad_token_id": 64, "bos_token_id": 64},
        cacheless(tensors(input_ids=integers(64, 4, 12))),
    ),
    (
        "seamless_m4t",
        "SeamlessM4TForTextToText",
        SEQUENCES
        | {"hidden_size": 64, "speech_encoder_layers": 1, "t2u_encoder_layers": 1, "t2u_decoder_layers": 1}
        | {
            "speech_encoder_attention_heads": 4,
            "speech_encoder_intermediate_size": 96,
            "num_conv_pos_embedding_groups": 4,
        },
        cacheless(tensors(input_ids=integers(64, 2, 12), decoder_input_ids=integers(64, 2, 8))),
    ),
    (
        "speecht5_hifigan",
        "SpeechT5HifiGan",
        _VOCODER,
        tensors(spectrogram=normal(2, 8, 16)),
    ),
    (
        "speecht5",
        "SpeechT5ForSpeechToText",
        _SPEECH
        | {
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "num_mel_bins": 16,
            "speech_decoder_prenet_units": 32,
            "speech_decoder_postnet_units": 32,
        },
        cacheless(tensors(input_values=normal(2, 640), decoder_input_ids=integers(32, 2, 8))),
    ),
    ("unispeech", "UniSpeechModel", _SPEECH, _wave),
    (
        "univnet",
        "UnivNetModel",
        {
            "model_in_channels": 16,
            "model_hidden_channels": 16,
            "num_mel_bins": 16,
            "kernel_predictor_hidden_channels": 16,
        }
        | {"resblock_kernel_sizes": [3], "resblock_stride_sizes": [4], "resblock_dilation_sizes": [[1, 3]]},
        tensors(input_features=normal(2, 8, 16), noise_sequence=normal(2, 8, 16)),
    ),
    ("wav2vec2_conformer", "Wav2Vec2ConformerModel", _SPEECH | {"position_embeddings_type": "relative"}, _wave),
    (
        "wav2vec2_bert",
        "Wav2Vec2BertModel",
        LAYERS
        | {"feature_projection_input_dim": 16, "vocab_size": 32, "left_max_position_embeddings": 4}
        | {"right_max_position_embeddings": 2, "output_hidden_size": 64},
        tensors(input_features=normal(2, 24, 16)),
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

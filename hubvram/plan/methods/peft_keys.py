"""Config keys of every PEFT type with their defaults, read from the config classes of peft 0.21.

Written by ``tools/peft_counts.py --keys``: facts, not code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# fmt: off
KEYS: Mapping[str, Mapping[str, Any]] = {
    "ADALORA": {
        "rank_pattern": None, "target_r": 8, "init_r": 12, "tinit": 0, "tfinal": 0, "deltaT": 1, "beta1": 0.85,
        "beta2": 0.85, "orth_reg_weight": 0.5, "total_step": None,
    },
    "ADAMSS": {
        "r": 100, "num_subspaces": 5, "subspace_rank": 1, "target_modules": None, "init_weights": "orthogonal",
        "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None, "use_asa": False,
        "asa_target_subspaces": 50, "init_warmup": 50, "final_warmup": 1000, "mask_interval": 100,
        "asa_importance_beta": 0.85, "asa_uncertainty_beta": 0.85, "asa_schedule_exponent": 3.0,
        "use_dynamic_rank": False, "svd_threshold": 0.1, "random_seed": 0,
    },
    "ADAPTION_PROMPT": {
        "target_modules": None, "adapter_len": None, "adapter_layers": None,
    },
    "BEFT": {
        "target_modules": None, "modules_to_save": None, "init_weights": True,
    },
    "BOFT": {
        "boft_block_size": 4, "boft_block_num": 0, "boft_n_butterfly_factor": 1, "target_modules": None,
        "exclude_modules": None, "boft_dropout": 0.0, "fan_in_fan_out": False, "bias": "none",
        "modules_to_save": None, "init_weights": True, "layers_to_transform": None, "layers_pattern": None,
    },
    "C3A": {
        "block_size": 256, "target_modules": None, "bias": "none", "modules_to_save": None,
        "layers_to_transform": None, "layers_pattern": None, "block_size_pattern": {},
        "init_weights": "xavier_uniform",
    },
    "CARTRIDGE": {
        "num_virtual_tokens": None, "token_dim": None, "num_transformer_submodules": None,
        "num_attention_heads": None, "num_layers": None, "modules_to_save": None, "num_frozen_tokens": 1,
    },
    "CPT": {
        "num_virtual_tokens": None, "token_dim": None, "num_transformer_submodules": None,
        "num_attention_heads": None, "num_layers": None, "modules_to_save": None, "cpt_token_ids": None,
        "cpt_mask": None, "cpt_tokens_type_mask": None, "opt_weighted_loss_type": "none",
        "opt_loss_decay_factor": 1.0, "opt_projection_epsilon": 0.1, "opt_projection_format_epsilon": 0.1,
        "tokenizer_name_or_path": None,
    },
    "DEFT": {
        "r": 8, "target_modules": None, "exclude_modules": None, "decomposition_method": "relu", "init_scale": 1.0,
        "alpha": None, "para": False, "fan_in_fan_out": False, "deft_dropout": 0.0, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None, "bias": "none", "modules_to_save": None,
    },
    "DELORA": {
        "r": 8, "delora_lambda": 15, "module_dropout": 0.0, "target_modules": None, "exclude_modules": None,
        "bias": "none", "init_weights": True, "layers_to_transform": None, "layers_pattern": None,
        "rank_pattern": {}, "lambda_pattern": {}, "modules_to_save": None,
    },
    "FOURIERFT": {
        "n_frequency": 1000, "scaling": 150.0, "random_loc_seed": 777, "fan_in_fan_out": False,
        "target_modules": None, "exclude_modules": None, "bias": "none", "modules_to_save": None,
        "layers_to_transform": None, "layers_pattern": None, "n_frequency_pattern": {}, "init_weights": False,
    },
    "FROD": {
        "target_modules": None, "projection_prng_key": 0, "save_projection": True, "frod_dropout": 0.0,
        "fan_in_fan_out": False, "bias": "none", "modules_to_save": None, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None, "sparse_rate": 0.01, "regularization_alpha": 0.001,
        "progressbar": True, "runtime_offload_base_weight": False,
    },
    "GLORA": {
        "r": 8, "target_modules": None, "bias": "none", "modules_to_save": None, "config_A_B": "lora",
        "config_C": "lora", "config_D_E": "constant", "init_weights": True,
    },
    "GRALORA": {
        "r": 32, "hybrid_r": 0, "target_modules": None, "alpha": 64, "gralora_dropout": 0.0, "gralora_k": 2,
        "fan_in_fan_out": False, "bias": "none", "modules_to_save": None, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None,
    },
    "HIRA": {
        "r": 32, "target_modules": None, "exclude_modules": None, "hira_dropout": 0.0, "fan_in_fan_out": False,
        "modules_to_save": None, "init_weights": True, "layers_to_transform": None, "layers_pattern": None,
        "rank_pattern": {},
    },
    "HRA": {
        "r": 8, "apply_GS": False, "target_modules": None, "exclude_modules": None, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None, "bias": "none", "modules_to_save": None,
    },
    "IA3": {
        "target_modules": None, "exclude_modules": None, "feedforward_modules": None, "fan_in_fan_out": False,
        "modules_to_save": None, "init_ia3_weights": True,
    },
    "LILY": {
        "r": 32, "stride_A": 1, "num_B": 2, "scaling": 1.0, "target_modules": None, "exclude_modules": None,
        "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None, "init_weights": True,
    },
    "LN_TUNING": {
        "target_modules": None, "exclude_modules": None, "modules_to_save": None,
    },
    "LOHA": {
        "rank_pattern": {}, "alpha_pattern": {}, "r": 8, "alpha": 8, "rank_dropout": 0.0, "module_dropout": 0.0,
        "use_effective_conv2d": False, "target_modules": None, "exclude_modules": None, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None, "modules_to_save": None,
    },
    "LOKR": {
        "rank_pattern": {}, "alpha_pattern": {}, "r": 8, "alpha": 8, "rank_dropout": 0.0, "module_dropout": 0.0,
        "use_effective_conv2d": False, "decompose_both": False, "decompose_factor": -1, "rank_dropout_scale": False,
        "target_modules": None, "exclude_modules": None, "init_weights": True, "layers_to_transform": None,
        "layers_pattern": None, "modules_to_save": None,
    },
    "LORA": {
        "r": 8, "target_modules": None, "exclude_modules": None, "lora_alpha": 8, "lora_dropout": 0.0,
        "fan_in_fan_out": False, "bias": "none", "use_rslora": False, "modules_to_save": None,
        "init_lora_weights": True, "layers_to_transform": None, "layers_pattern": None, "rank_pattern": {},
        "alpha_pattern": {}, "megatron_config": None, "megatron_core": "megatron.core",
        "trainable_token_indices": None, "loftq_config": {}, "eva_config": None, "corda_config": None,
        "lora_ga_config": None, "use_dora": False, "velora_config": None, "alora_invocation_tokens": None,
        "use_qalora": False, "qalora_group_size": 16, "monteclora_config": None, "layer_replication": None,
        "runtime_config": None, "lora_bias": False, "target_parameters": None, "use_bdlora": None,
        "arrow_config": None, "kasa_config": None, "ensure_weight_tying": False,
    },
    "MISS": {
        "r": 64, "miss_dropout": 0.0, "mini_r": 1, "target_modules": None, "exclude_modules": None,
        "init_weights": True, "layers_to_transform": None, "layers_pattern": None, "bias": "none",
        "modules_to_save": None,
    },
    "MULTITASK_PROMPT_TUNING": {
        "num_virtual_tokens": None, "token_dim": None, "num_transformer_submodules": None,
        "num_attention_heads": None, "num_layers": None, "modules_to_save": None, "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None, "tokenizer_name_or_path": None, "tokenizer_kwargs": None,
        "prompt_tuning_init_state_dict_path": None, "prompt_tuning_init_task": 0, "num_ranks": 1, "num_tasks": 1,
    },
    "OFT": {
        "r": 0, "oft_block_size": 32, "module_dropout": 0.0, "target_modules": None, "fan_in_fan_out": False,
        "bias": "none", "exclude_modules": None, "init_weights": True, "layers_to_transform": None,
        "layers_pattern": None, "modules_to_save": None, "coft": False, "eps": 6e-05, "block_share": False,
        "use_cayley_neumann": True, "num_cayley_neumann_terms": 5,
    },
    "OSF": {
        "effective_rank": None, "target_modules": None, "rank_pattern": None, "init_weights": True,
        "modules_to_save": None, "target_svd_config": None,
    },
    "PEANUT": {
        "r": 32, "depth": 0, "act_fn": "relu", "scaling": 1.0, "target_modules": None, "exclude_modules": None,
        "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None, "init_weights": True,
    },
    "POLY": {
        "r": 8, "target_modules": None, "exclude_modules": None, "modules_to_save": None, "init_weights": True,
        "poly_type": "poly", "n_tasks": 1, "n_skills": 4, "n_splits": 1,
    },
    "PREFIX_TUNING": {
        "num_virtual_tokens": None, "token_dim": None, "num_transformer_submodules": None,
        "num_attention_heads": None, "num_layers": None, "modules_to_save": None, "init_weights": None,
        "encoder_hidden_size": None, "prefix_projection": False,
    },
    "PROMPT_TUNING": {
        "num_virtual_tokens": None, "token_dim": None, "num_transformer_submodules": None,
        "num_attention_heads": None, "num_layers": None, "modules_to_save": None, "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None, "tokenizer_name_or_path": None, "tokenizer_kwargs": None,
    },
    "PSOFT": {
        "r": 32, "target_modules": None, "exclude_modules": None, "psoft_alpha": 32, "psoft_dropout": 0.0,
        "fan_in_fan_out": False, "ab_svd_init": "psoft_init", "psoft_svd": "full", "psoft_svd_lowrank_niter": 10,
        "random_seed": 0, "psoft_orth": True, "psoft_mag_b": True, "psoft_mag_a": True, "use_cayley_neumann": False,
        "num_cayley_neumann_terms": 5, "cayley_neumann_eps": None, "modules_to_save": None, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None,
    },
    "PVERA": {
        "r": 256, "target_modules": None, "projection_prng_key": 0, "save_projection": True, "pvera_dropout": 0.0,
        "d_initial": 0.1, "fan_in_fan_out": False, "bias": "none", "modules_to_save": None, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None, "sample_at_inference": False, "generator_seed": None,
    },
    "P_TUNING": {
        "num_virtual_tokens": None, "token_dim": None, "num_transformer_submodules": None,
        "num_attention_heads": None, "num_layers": None, "modules_to_save": None,
        "encoder_reparameterization_type": "MLP", "encoder_hidden_size": None, "encoder_num_layers": 2,
        "encoder_dropout": 0.0,
    },
    "RANDLORA": {
        "r": 32, "target_modules": None, "projection_prng_key": 0, "save_projection": True, "sparse": False,
        "very_sparse": False, "randlora_dropout": 0.0, "fan_in_fan_out": False, "randlora_alpha": 640,
        "bias": "none", "modules_to_save": None, "init_weights": True, "layers_to_transform": None,
        "layers_pattern": None,
    },
    "ROAD": {
        "variant": "road_1", "group_size": 64, "init_weights": True, "target_modules": None,
        "modules_to_save": None,
    },
    "SHADOW": {
        "target_modules": None, "exclude_modules": None, "r": 8, "shadow_alpha": 0.1, "shadow_dropout": 0.2,
        "init_weights": True, "shadow_model": "mirror", "shadow_num_hidden_layers": None,
        "shadow_hidden_size": None, "shadow_num_attention_heads": None, "shadow_intermediate_size": None,
        "share_embeddings": True, "update_hidden_size": None, "auxiliary_loss_weight": 0.05,
        "layers_to_transform": None, "layers_pattern": None, "modules_to_save": None,
    },
    "SHIRA": {
        "r": 32, "mask_type": "random", "random_seed": None, "target_modules": None, "fan_in_fan_out": False,
        "init_weights": True, "modules_to_save": None,
    },
    "SUPERTUNING": {
        "target_modules": None, "modules_to_save": None, "sparsity": 0.99, "select_top": True, "r": None,
        "lora_alpha": None, "lora_dropout": 0.0, "init_weights": True, "save_precomputed_indices": True,
    },
    "TINYLORA": {
        "r": 2, "u": 64, "weight_tying": 0.0, "projection_seed": 42, "save_projection": True, "init_v_bound": 0.02,
        "target_modules": None, "tinylora_dropout": 0.0, "fan_in_fan_out": False, "bias": "none",
        "modules_to_save": None, "init_weights": True, "layers_to_transform": None, "layers_pattern": None,
    },
    "TRAINABLE_TOKENS": {
        "token_indices": [], "target_modules": None, "init_weights": True,
    },
    "UNILORA": {
        "r": 4, "proj_seed": 42, "theta_d_length": 256, "target_modules": None, "unilora_dropout": 0.0,
        "fan_in_fan_out": False, "bias": "none", "modules_to_save": None, "init_theta_d_bound": 0.02,
        "init_weights": True, "save_indices": False, "layers_to_transform": None, "layers_pattern": None,
    },
    "VBLORA": {
        "r": 4, "num_vectors": 256, "vector_length": 256, "topk": 2, "target_modules": None,
        "exclude_modules": None, "save_only_topk_weights": False, "vblora_dropout": 0.0, "fan_in_fan_out": False,
        "bias": "none", "modules_to_save": None, "init_vector_bank_bound": 0.02, "init_logits_std": 0.1,
        "layers_to_transform": None, "layers_pattern": None,
    },
    "VERA": {
        "r": 256, "target_modules": None, "projection_prng_key": 0, "save_projection": True, "vera_dropout": 0.0,
        "d_initial": 0.1, "fan_in_fan_out": False, "bias": "none", "modules_to_save": None, "init_weights": True,
        "layers_to_transform": None, "layers_pattern": None,
    },
    "WAVEFT": {
        "n_frequency": 2592, "scaling": 25.0, "wavelet_family": "db1", "use_idwt": True, "random_loc_seed": 777,
        "fan_in_fan_out": False, "target_modules": None, "exclude_modules": None, "bias": "none",
        "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None, "n_frequency_pattern": {},
        "proportional_parameters": False, "init_weights": True,
    },
    "XLORA": {
        "hidden_size": None, "adapters": None, "enable_softmax": True, "enable_softmax_topk": False,
        "layerwise_scalings": False, "xlora_depth": 1, "xlora_size": 2048, "xlora_dropout_p": 0.2,
        "use_trainable_adapters": False, "softmax_temperature": 1.0, "top_k_lora": None, "scaling_pass_value": 0.0,
        "global_scaling_weight": 1.0,
    },
}
# fmt: on

"""The public names of the package, by the submodule that defines them.

After a change here, `python -m tests.stubs` writes `__init__.pyi`.
"""

MODULES = """
    assignment contrib descent experimental linalg losses matrices microbatching perturbations problems projections
    schedules second_order sharding transforms tree tree_utils
"""
"""The public submodules, separated by spaces, as are the names below."""

NAMES = {
    "algorithms.adabelief": "adabelief scale_by_belief",
    "algorithms.adadelta": "adadelta scale_by_adadelta",
    "algorithms.adafactor": "adafactor scale_by_factored_rms",
    "algorithms.adagrad": "adagrad scale_by_rss",
    "algorithms.adam": "adam adamw nadam nadamw scale_by_adam",
    "algorithms.adam_mini": "scale_by_adam_mini",
    "algorithms.adamax": "adamax adamaxw scale_by_adamax",
    "algorithms.adan": "adan scale_by_adan",
    "algorithms.ademamix": "ademamix scale_by_ademamix",
    "algorithms.adopt": "adopt scale_by_adopt",
    "algorithms.amsgrad": "amsgrad scale_by_amsgrad",
    "algorithms.came": "came scale_by_came",
    "algorithms.dadapt": "dadapt_adamw",
    "algorithms.dog": "dog scale_by_distance_over_gradients scale_by_dog",
    "algorithms.dowg": "dowg scale_by_dowg",
    "algorithms.hidden": "hidden_matrices",
    "algorithms.lamb": "lamb",
    "algorithms.laprop": "laprop scale_by_laprop",
    "algorithms.lars": "fromage lars",
    "algorithms.lion": "lion scale_by_lion",
    "algorithms.muon": "muon scale_by_muon",
    "algorithms.normuon": "normuon scale_by_normuon",
    "algorithms.novograd": "novograd scale_by_novograd",
    "algorithms.optimistic": """
        optimistic_adam optimistic_adam_v2 optimistic_gradient_descent scale_by_optimistic_gradient
    """,
    "algorithms.prodigy": "prodigy",
    "algorithms.psgd": "psgd_kron scale_by_psgd_kron",
    "algorithms.radam": "radam scale_by_radam",
    "algorithms.rmsprop": "rmsprop scale_by_rms scale_by_stddev",
    "algorithms.rprop": "rprop scale_by_rprop",
    "algorithms.sgd": "sgd",
    "algorithms.shampoo": "scale_by_shampoo shampoo",
    "algorithms.sign_sgd": "scale_by_sign sign_sgd signum",
    "algorithms.simplified_ademamix": "scale_by_simplified_ademamix simplified_ademamix",
    "algorithms.sm3": "scale_by_sm3 sm3",
    "algorithms.soap": "scale_by_soap soap",
    "algorithms.yogi": "scale_by_yogi yogi",
    "axes": "AxisName",
    "collectives.compressed_mean": "compressed_mean",
    "collectives.local_steps": "LocalStepsState local_steps",
    "collectives.low_rank_mean": "low_rank_mean",
    "collectives.mean_over": "mean_over",
    "collectives.quantized_mean": "quantized_mean",
    "collectives.replicate": "replicate unreplicate",
    "collectives.shard_update": "shard_update",
    "compose.apply_updates": "apply_updates descend",
    "compose.by_path": "by_path",
    "compose.chain": "chain named_chain",
    "compose.masked": "frozen masked",
    "compose.partition": "freeze multi_transform partition selective_transform",
    "compose.watch": "WatchState metrics watch",
    "descent": """
        Callback CheckpointError Checkpoints Criterion Evaluate Fit History JsonLines PeerFailedError PeerLostError
        Progress State Stopped fit make_step stop
    """,
    "describing": "Description describe",
    "lifted": """
        acprop add_noise apply_every cocob conditionally_mask conditionally_transform
        differentially_private_aggregate dpsgd flatten galore hutchinson_estimator_diag_hessian
        keep_params_nonnegative lbfgs madgrad measure_with_ema mechanize momo momo_adam noisy_sgd polyak_sgd
        scale_by_acprop scale_by_backtracking_linesearch scale_by_cocob scale_by_galore scale_by_lbfgs
        scale_by_madgrad scale_by_polyak scale_by_zoom_linesearch set_to_zero snapshot sophia
        split_real_and_imaginary stateless stateless_with_tree_map
    """,
    "losses": """
        convex_kl_divergence cosine_distance cosine_similarity ctc_loss ctc_loss_with_forward_probs
        generalized_kl_divergence hinge_loss huber_loss kl_divergence l2_loss log_cosh ntxent
        safe_softmax_cross_entropy sigmoid_binary_cross_entropy sigmoid_focal_loss smooth_labels
        softmax_cross_entropy softmax_cross_entropy_with_integer_labels squared_error
    """,
    "matrices": "eigh_root jordan_scale moonlight_scale newton_root",
    "names": "factories parse",
    "norms": "global_norm",
    "numerics": "incremental_update safe_norm safe_root_mean_squares scale_gradient",
    "problems": "Problem problem",
    "schedules": """
        ademamix_alpha ademamix_b3 constant constant_schedule cosine_decay_schedule cosine_onecycle_schedule
        exponential_decay inverse_sqrt join_schedules linear_onecycle_schedule linear_schedule
        piecewise_constant_schedule piecewise_interpolate_schedule polynomial_schedule scaled sgdr_schedule
        warm_restarts warmup_constant_schedule warmup_cosine warmup_cosine_decay_schedule
        warmup_exponential_decay_schedule warmup_stable_decay
    """,
    "transforms.clipping": "adaptive_grad_clip clip clip_by_block_rms clip_by_global_norm",
    "transforms.decay": "add_cautious_weight_decay add_decayed_weights",
    "transforms.momentum": "ema trace",
    "transforms.normalizing": "centralize normalize normalize_by_update_norm zero_nans",
    "transforms.plateau": "reduce_on_plateau",
    "transforms.scaling": "identity scale scale_by_learning_rate scale_by_schedule",
    "transforms.trust": "scale_by_param_block_norm scale_by_param_block_rms scale_by_trust_ratio",
    "tree_utils": "bias_correction update_infinity_moment update_moment update_moment_per_elem_norm",
    "value": """
        AccumulatorDType Decay Factory GradientTransform Interval LearningRate Momentum NonNegative ParseError
        Positive Rate Scalar ScalarOrSchedule Schedule WeightDecay expand lift schedule stack transform
    """,
    "wrappers.accumulate": "accumulate",
    "wrappers.apply_if_finite": "apply_if_finite",
    "wrappers.cautious": "cautious cautious_adamw",
    "wrappers.eval_params": "eval_params",
    "wrappers.inject_hyperparams": "inject_hyperparams inject_stateful_hyperparams",
    "wrappers.lookahead": "lookahead",
    "wrappers.mars": "mars mars_adamw",
    "wrappers.maximize": "maximize",
    "wrappers.monitor": "monitor",
    "wrappers.multi_steps": "MultiSteps",
    "wrappers.packed": "packed",
    "wrappers.params_ema": "params_ema",
    "wrappers.sam": "sam",
    "wrappers.schedule_free": "schedule_free schedule_free_adamw schedule_free_sgd",
}
"""The names of each submodule that are public names of the package."""

HOME = {name: module for module, names in NAMES.items() for name in names.split()}
"""The submodule of each name."""

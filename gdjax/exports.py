"""The public names of the package, by the submodule that defines them.

After a change here, `python -m tests.stubs` writes `__init__.pyi`.
"""

MODULES = """
    assignment contrib descent experimental linalg losses matrices microbatching perturbations problems projections
    schedules second_order sharding transforms tree tree_utils
"""
"""The public submodules, separated by spaces, as are the names below."""

NAMES = {
    "axes": "AxisName",
    "algorithms": """
        optimistic_adam optimistic_adam_v2 optimistic_gradient_descent rprop scale_by_distance_over_gradients
        scale_by_optimistic_gradient scale_by_rprop scale_by_simplified_ademamix scale_by_sm3
        simplified_ademamix sm3
    """,
    "collectives": "LocalStepsState compressed_mean local_steps mean_over replicate shard_update unreplicate",
    "compose": """
        WatchState apply_updates by_path chain descend freeze frozen hidden_matrices masked metrics multi_transform
        named_chain partition selective_transform watch
    """,
    "descent": """
        Callback CheckpointError Checkpoints Criterion Evaluate Fit History JsonLines PeerFailedError
        PeerLostError Progress State Stopped fit make_step stop
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
    "matrices": "jordan_scale moonlight_scale",
    "names": "factories parse",
    "norms": "global_norm",
    "numerics": "incremental_update safe_norm safe_root_mean_squares scale_gradient",
    "optimizers": """
        adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan ademamix adopt amsgrad came
        cautious_adamw dadapt_adamw dog dowg fromage lamb laprop lars lion mars_adamw muon nadam nadamw
        normuon novograd prodigy psgd_kron radam rmsprop schedule_free_adamw schedule_free_sgd sgd shampoo
        sign_sgd signum soap yogi
    """,
    "problems": "Problem problem",
    "schedules": """
        ademamix_alpha ademamix_b3 constant constant_schedule cosine_decay_schedule cosine_onecycle_schedule
        exponential_decay inverse_sqrt join_schedules linear_onecycle_schedule linear_schedule
        piecewise_constant_schedule piecewise_interpolate_schedule polynomial_schedule scaled sgdr_schedule
        warm_restarts warmup_constant_schedule warmup_cosine warmup_cosine_decay_schedule
        warmup_exponential_decay_schedule warmup_stable_decay
    """,
    "transforms": """
        adaptive_grad_clip add_cautious_weight_decay add_decayed_weights centralize clip clip_by_block_rms
        clip_by_global_norm ema identity normalize normalize_by_update_norm reduce_on_plateau scale scale_by_adadelta
        scale_by_adam scale_by_adam_mini scale_by_adamax scale_by_adan scale_by_ademamix scale_by_adopt
        scale_by_amsgrad scale_by_belief scale_by_came scale_by_dog scale_by_dowg scale_by_factored_rms
        scale_by_laprop scale_by_learning_rate scale_by_lion scale_by_muon scale_by_normuon scale_by_novograd
        scale_by_param_block_norm scale_by_param_block_rms scale_by_psgd_kron scale_by_radam scale_by_rms
        scale_by_rss scale_by_schedule scale_by_shampoo scale_by_sign scale_by_soap scale_by_stddev
        scale_by_trust_ratio scale_by_yogi trace zero_nans
    """,
    "tree_utils": "bias_correction update_infinity_moment update_moment update_moment_per_elem_norm",
    "value": """
        AccumulatorDType Decay Factory GradientTransform Interval LearningRate Momentum NonNegative ParseError Positive
        Rate Scalar ScalarOrSchedule Schedule WeightDecay expand lift schedule stack transform
    """,
    "wrappers": """
        MultiSteps accumulate apply_if_finite cautious eval_params inject_hyperparams inject_stateful_hyperparams
        lookahead mars maximize monitor packed params_ema sam schedule_free
    """,
}
"""The names of each submodule that are public names of the package."""

HOME = {name: module for module, names in NAMES.items() for name in names.split()}
"""The submodule of each name."""

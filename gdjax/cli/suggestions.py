"""Suggest an option for one that does not exist."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from gdjax.hints import nearest

HYPERPARAMETER = "hyperparameters are arguments of --optimizer, as in --optimizer 'adamw(3e-3, weight_decay=0.1)'"
SUGGESTIONS: Mapping[str, str] = {
    HYPERPARAMETER: (
        "lr rate learningrate alpha eta beta b1 b2 beta1 beta2 betas eps epsilon momentum nesterov decay "
        "weightdecay wd l2 schedule scheduler lrschedule lrscheduler warmup warmupsteps warmupratio minlr maxlr "
        "clip clipnorm gradclip gradclipping maxgradnorm clipgradnorm accumulate gradaccum "
        "gradientaccumulationsteps accumulategradbatches ema sam"
    ),
    "use --optimizer, as in --optimizer 'adamw(3e-3)'": (
        "opt optim optimiser tx algorithm algo solver method adam adamw sgd muon"
    ),
    "use --batch-size N: rows per step": (
        "b bs batch batchsize minibatch minibatchsize trainbatchsize perdevicetrainbatchsize globalbatchsize"
    ),
    "use --steps N: the number of updates": (
        "s n step iter iters iteration iterations niter niters maxiter maxiters maxiterations numiter nsteps "
        "numsteps maxsteps totalsteps trainsteps numtrainsteps updates"
    ),
    "use --epochs N: passes over the data": "e epoch ep nepochs numepochs maxepochs numtrainepochs passes",
    "the problem is the first argument, as in gdjax train digits, or 'digits(hidden=128)'": (
        "p task model modelname net network arch architecture dataset datasetname loss objective function hidden "
        "width layers depth heads"
    ),
    "use --data PATH: a file or folder of your own": (
        "d datadir datapath dataroot datafolder traindata trainfile input file files"
    ),
    "use --mesh data=N: the number of devices": (
        "g gpu gpus ngpu ngpus numgpus devices ndevices numdevices nprocpernode tpu tpus tpucores dp ddp "
        "fsdp parallel sharding shards"
    ),
    "JAX chooses the device; to choose another: JAX_PLATFORMS=cpu gdjax train": (
        "device cpu cuda backend platform accelerator nocuda"
    ),
    "use --out DIR: the folder of the run": (
        "o output outdir outputdir dir folder savedir save savepath logdir log logs rundir workdir exp experiment "
        "name runname ckptdir checkpointdir"
    ),
    "use --save-every N: steps between checkpoints": (
        "saveinterval savefreq savefrequency savesteps ckptevery ckptinterval ckptfreq checkpointevery "
        "checkpointinterval checkpointfreq everynsteps snapshot"
    ),
    "use --resume --out DIR to resume a run": (
        "r continue cont restart restore load loadfrom resumefrom resumefromcheckpoint checkpoint ckpt ckptpath "
        "pretrained init"
    ),
    "use --until 'accuracy>0.97' to stop at a target": (
        "target goal stop stopat tol tolerance threshold patience earlystop earlystopping tillloss"
    ),
    "use --config FILE to repeat a run": "c cfg conf configfile configpath params yaml toml json",
    "use --seed N": "randomseed rng rngseed key randomstate",
    "use --num-processes N": "worldsize nnodes nprocs nodes numnodes numworkers workers",
    "use --process-id I: the index of this process": "rank localrank globalrank noderank hostid",
    "use --coordinator HOST:PORT: the address of process 0": (
        "master masteraddr masterport coordinatoraddress initmethod disturl host port address rdzvendpoint"
    ),
    "use --debug to show tracebacks": "v verbose vv trace traceback loglevel",
    "progress goes to the standard error; to hide it: gdjax train 2> /dev/null": ("q quiet silent noprogress progress"),
    "parameters are float32; JAX_ENABLE_X64=1 allows float64": (
        "dtype precision fp16 bf16 amp float16 bfloat16 mixedprecision"
    ),
    "use --no-cache to compile without the cache": "cachedir nocompile compile jit nojit",
    "use gdjax --version": "version",
}
"""Suggestions, each with the names that other tools give the option, without dashes."""


class UsageError(Protocol):
    """Typer's error about the command line; one about an option also has `option_name` and `possibilities`."""

    def format_message(self) -> str:
        """Return the message, without a suggestion."""
        ...


def usage_message(error: UsageError) -> str:
    """Return the message of an error about the command line, with a suggestion."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "gdjax")
    see_help = f"Run {command} --help for all options."
    option = getattr(error, "option_name", None)
    if option is None or not hasattr(error, "possibilities"):
        message = error.format_message().rstrip(".")
        if match := re.fullmatch(r"No such command '([\w(].*)'", message):
            message += f"; a problem follows train: gdjax train {shlex.quote(match[1])}"
        return f"{message}{'' if message.endswith('?') else '.'} {see_help}"
    option = _option_as_written(option)
    params = context.command.params if context else ()
    known = [name for param in params for name in param.opts if name.startswith("--")]
    return f"No such option: {option}{_suggestion(option, known)}. {see_help}"


def _suggestion(option: str, known: Sequence[str]) -> str:
    """Return a suggestion for an option that a command lacks, given the options that it has."""
    bare = re.sub(r"[-_.]", "", option).lower()
    suggestions = [suggestion for suggestion, names in SUGGESTIONS.items() if bare in names.split()]
    if "--optimizer" in known and suggestions:
        return f"; {suggestions[0]}"
    if "--install-completion" in known:  # gdjax without a command
        return nearest(option, known) or f"; options follow a command, as in gdjax train {option}"
    return nearest(option, known) or f"; there are {', '.join(known)}"


def _option_as_written(option: str) -> str:
    """Return the whole option: for `-lr`, the parser's error names `-l`."""
    written = (argument.partition("=")[0] for argument in sys.argv[1:])
    return next((word for word in written if word.startswith(option)), option)

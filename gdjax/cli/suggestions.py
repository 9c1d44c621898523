"""Suggest the option that was meant by one that does not exist."""

import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from gdjax.hints import nearest

HYPERPARAMETER = "hyperparameters are arguments of --optimizer, as in --optimizer 'adamw(3e-3, weight_decay=0.1)'"
MEANT: Mapping[str, str] = {
    HYPERPARAMETER: (
        "lr rate learningrate alpha eta beta b1 b2 beta1 beta2 betas eps epsilon momentum nesterov decay "
        "weightdecay wd l2 schedule scheduler lrschedule lrscheduler warmup warmupsteps warmupratio minlr maxlr "
        "clip clipnorm gradclip gradclipping maxgradnorm clipgradnorm accumulate gradaccum "
        "gradientaccumulationsteps accumulategradbatches ema sam"
    ),
    "the optimizer is --optimizer 'adamw(3e-3)'": (
        "opt optim optimiser tx algorithm algo solver method adam adamw sgd muon"
    ),
    "rows of a step are --batch-size N": (
        "b bs batch batchsize minibatch minibatchsize trainbatchsize perdevicetrainbatchsize globalbatchsize"
    ),
    "updates are --steps N": (
        "s n step iter iters iteration iterations niter niters maxiter maxiters maxiterations numiter nsteps "
        "numsteps maxsteps totalsteps trainsteps numtrainsteps updates"
    ),
    "times through the data are --epochs N": "e epoch ep nepochs numepochs maxepochs numtrainepochs passes",
    "the problem comes first, as in gdjax train digits, or 'digits(hidden=128)'": (
        "p task model modelname net network arch architecture dataset datasetname loss objective function hidden "
        "width layers depth heads"
    ),
    "data of your own are --data PATH": "d datadir datapath dataroot datafolder traindata trainfile input file files",
    "devices are --mesh data=N": (
        "g gpu gpus ngpu ngpus numgpus devices ndevices numdevices nprocpernode tpu tpus tpucores dp ddp "
        "fsdp parallel sharding shards"
    ),
    "JAX chooses the device: JAX_PLATFORMS=cpu gdjax train": "device cpu cuda backend platform accelerator nocuda",
    "the folder of a run is --out DIR": (
        "o output outdir outputdir dir folder savedir save savepath logdir log logs rundir workdir exp experiment "
        "name runname ckptdir checkpointdir"
    ),
    "checkpoints are written every --save-every N steps": (
        "saveinterval savefreq savefrequency savesteps ckptevery ckptinterval ckptfreq checkpointevery "
        "checkpointinterval checkpointfreq everynsteps snapshot"
    ),
    "a run goes on by --resume --out DIR": (
        "r continue cont restart restore load loadfrom resumefrom resumefromcheckpoint checkpoint ckpt ckptpath "
        "pretrained init"
    ),
    "an end before that is --until 'accuracy>0.97'": (
        "target goal stop stopat tol tolerance threshold patience earlystop earlystopping tillloss"
    ),
    "a run is repeated by --config FILE": "c cfg conf configfile configpath params yaml toml json",
    "the seed is --seed N": "randomseed rng rngseed key randomstate",
    "the number of processes is --num-processes N": "worldsize nnodes nprocs nodes numnodes numworkers workers",
    "this process's number is --process-id I": "rank localrank globalrank noderank hostid",
    "process 0 is found at --coordinator HOST:PORT": (
        "master masteraddr masterport coordinatoraddress initmethod disturl host port address rdzvendpoint"
    ),
    "tracebacks are shown by --debug": "v verbose vv trace traceback loglevel",
    "progress is shown on the standard error: gdjax train 2> /dev/null is without": (
        "q quiet silent noprogress progress"
    ),
    "parameters are float32; JAX_ENABLE_X64=1 allows others": (
        "dtype precision fp16 bf16 amp float16 bfloat16 mixedprecision"
    ),
    "compiled programs are kept unless --no-cache": "cachedir nocompile compile jit nojit",
    "the version is gdjax --version": "version",
}
"""Suggestions, by the names that other tools use, without dashes."""


def hinted(error: Any) -> str:
    """Return the message of a mistake on the command line, with the option that was meant.

    Args:
      error: an error of typer, with `format_message` and, for an option, `option_name`.
    """
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "gdjax")
    help_is = f"{command} --help tells what there is."
    option = getattr(error, "option_name", None)
    if option is None or not hasattr(error, "possibilities"):
        message: str = error.format_message().rstrip(".")
        if found := re.fullmatch(r"No such command '([\w(].*)'", message):
            message += f"; a problem is named after train: gdjax train {shlex.quote(found[1])}"
        return f"{message}{'' if message.endswith('?') else '.'} {help_is}"
    option = _whole(option)
    params = context.command.params if context else ()
    there = [name for param in params for name in param.opts if name.startswith("--")]
    return f"No such option: {option}{_meant(option, there)}. {help_is}"


def _meant(option: str, there: list[str]) -> str:
    """Return a suggestion for an option that a command lacks, given the options that it has."""
    bare = re.sub(r"[-_.]", "", option).lower()
    meant = [words for words, names in MEANT.items() if bare in names.split()]
    if "--optimizer" in there and meant:
        return f"; {meant[0]}"
    if "--install-completion" in there:  # of gdjax itself
        return nearest(option, there) or f"; options come after a command, as in gdjax train {option}"
    return nearest(option, there) or f"; there are {', '.join(there)}"


def _whole(option: str) -> str:
    """Return the option as it was written: for `-lr` a parser names `-l`."""
    written = (argument.partition("=")[0] for argument in sys.argv[1:])
    return next((word for word in written if word.startswith(option)), option)

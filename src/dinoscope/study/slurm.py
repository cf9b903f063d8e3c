"""Runs as jobs of a SLURM cluster, through submitit (the extra `slurm`)."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.study.run import WorkerProcess, last_lines, read_settings, sibling, write_settings
from dinoscope.training.config import RunConfig

NOTICE_SECONDS, SAVING_SECONDS = 120, 90
"""From SLURM's warning to the end of a job's time, and how much of it the checkpoint may take."""
REQUEUES = 1000
"""Times that a run may use up its time and be queued again; each continues where the last one stopped."""
ALIVE = {"PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "PREEMPTED"}
"""States of a job that need not be submitted again."""


@dataclass(frozen=True)
class SlurmConfig:
    """What a job asks for.

    timeout_minutes: of one job; a run that needs more is queued again and continues.
    gpus: of each run, 0 or 1 (a worker is one process).
    cpus: cores of each run.
    partition, account, qos: if empty, the cluster's default.
    """

    timeout_minutes: int = 24 * 60
    gpus: int = 1
    cpus: int = 8
    partition: str = ""
    account: str = ""
    qos: str = ""


class WorkerJob:
    """What runs on the node: a worker process, watched. Pickled by submitit, so it holds plain values.

    At SLURM's warning (timeout or preemption) submitit calls `checkpoint`, which has the worker save, and queues
    what that returns.
    """

    def __init__(self, command: tuple[str, ...], settings: str, threads: int) -> None:
        self.command, self.settings, self.threads = command, settings, threads
        self.process: WorkerProcess | None = None

    def __call__(self) -> int:
        config = read_settings(Path(self.settings))
        self.process = WorkerProcess(self.command, config, {"OMP_NUM_THREADS": str(config.threads or self.threads)})
        while (code := self.process.poll()) is None:
            time.sleep(0.2)
        if code == 130:  # SLURM signals the worker before this process: the order to queue again may still come
            time.sleep(NOTICE_SECONDS)
        return code

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.stop()
            deadline = time.monotonic() + SAVING_SECONDS
            # Not `wait`: this may run inside of a signal handler that interrupted `poll`.
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
        return DelayedSubmission(WorkerJob(self.command, self.settings, self.threads))


class JobHandle:
    """A job of the cluster, whose state is looked up every `every` seconds."""

    def __init__(self, job: Any, config: RunConfig, every: float) -> None:
        self.job, self.config, self.every = job, config, every
        self.looked = float("-inf")
        self.stopped = False
        self.error = ""

    def poll(self) -> int | None:
        """Return the exit code of the worker; 1 if the job died without one."""
        if self.stopped:
            return 130
        if time.monotonic() - self.looked < self.every:
            return None
        self.looked = time.monotonic()
        if not self.job.done():
            return None
        try:
            return self.job.result()
        except Exception as error:  # submitit raises its own kinds for a job that was killed, cancelled or lost
            self.error = "\n".join(str(error).strip().splitlines()[-12:])
            return 1

    def stop(self) -> None:
        """Cancel it: SLURM sends SIGTERM, at which the worker saves, and kills it 30 seconds later."""
        self.job.cancel(check=False)
        self.stopped = True

    kill = stop

    def diagnosis(self) -> str:
        return self.error or last_lines(sibling(self.config.out, "log"))


class SlurmRunner:
    """Submits all runs as one job array, of which at most `parallel` jobs run at the same time.

    A job that an earlier, killed study left in the queue is taken over instead of being submitted again; the
    worker's lock keeps two of them from one run folder in any case.

    command: what brings the run of a settings file, its last argument, to its end. folder: for submitit's files.
    cluster: slurm; local runs the same jobs here, for tests. every: seconds between looks at a job.

    Raises UserError if submitit or SLURM is missing, or the settings make no sense.
    """

    def __init__(
        self,
        command: Sequence[str],
        config: SlurmConfig,
        parallel: int,
        folder: Path,
        cluster: str = "slurm",
        every: float = 5,
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError("--executor slurm needs submitit: pip install 'dinoscope[slurm]'") from error
        if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError("--executor slurm: there is no SLURM here (no sbatch or srun on the PATH)")
        if config.gpus not in (0, 1):
            raise UserError(f"--gpus must be 0 or 1 for each run, not {config.gpus}: a run of a study is one process")
        if config.cpus < 1 or config.timeout_minutes < 5:
            raise UserError("--cpus must be at least 1 and --timeout-minutes at least 5")
        self.command, self.config, self.cluster, self.every = tuple(command), config, cluster, every
        self.at_once = sys.maxsize  # the array keeps to `parallel`
        limits = {"slurm_max_num_timeout": REQUEUES, "local_max_num_timeout": REQUEUES}
        self.executor = submitit.AutoExecutor(folder.absolute(), cluster, **limits)
        self.executor.update_parameters(
            name="dinoscope",
            timeout_min=config.timeout_minutes,
            gpus_per_node=config.gpus,
            cpus_per_task=config.cpus,
            slurm_array_parallelism=parallel,
            slurm_signal_delay_s=NOTICE_SECONDS,
            slurm_partition=config.partition or None,
            slurm_account=config.account or None,
            slurm_qos=config.qos or None,
        )

    def start(self, configs: Sequence[RunConfig]) -> list[JobHandle]:
        """Submit, or find in the queue. Raises UserError if the cluster refuses."""
        jobs = {config.out: self._alive(config) for config in configs}
        missing = [config for config in configs if jobs[config.out] is None]
        settings = [str(write_settings(config).absolute()) for config in missing]
        try:
            with self.executor.batch() if missing else contextlib.nullcontext():
                workers = [WorkerJob(self.command, file, self.config.cpus) for file in settings]
                submitted = [self.executor.submit(worker) for worker in workers]
        except (RuntimeError, subprocess.CalledProcessError) as error:
            reason = str(getattr(error, "stderr", None) or error).strip().replace("\n", "; ")
            raise UserError(f"SLURM did not take the jobs: {reason}") from error
        for config, job in zip(missing, submitted, strict=True):
            jobs[config.out] = job
            record = {"cluster": self.cluster, "folder": str(self.executor.folder), "job": job.job_id}
            write_text(sibling(config.out, "job.json"), json.dumps(record) + "\n")
        return [JobHandle(jobs[config.out], config, self.every) for config in configs]

    def _alive(self, config: RunConfig) -> Any | None:
        """Return the job that is at this run or will be, or None."""
        import submitit

        try:
            record = json.loads(sibling(config.out, "job.json").read_text(encoding="utf-8"))
            folder, number = record["folder"], record["job"]
        except (OSError, ValueError, KeyError):
            return None
        if self.cluster != "slurm" or record.get("cluster") != "slurm":
            return None
        job = submitit.SlurmJob(folder, number)
        if job.paths.result_pickle.exists():
            return None
        return job if job.watcher.get_state(number, mode="force").upper() in ALIVE else None

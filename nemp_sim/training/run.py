"""A training run in its directory: log, saved state, resume, early stop."""

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.files import replacing
from nemp_sim.model import NEMP
from nemp_sim.training.tables import Batches, FrameTable
from nemp_sim.training.trainer import Trainer, energy_weight, learning_rate, table_errors


class Run:
    """One training run in its directory: log, saved state, early stop."""

    LOG_FIELDS = (
        "epoch",
        "learning_rate",
        "energy_weight",
        "train_loss",
        "train_energy_rmse_eV_per_atom",
        "train_force_rmse_eV_per_A",
        "validation_energy_rmse_eV_per_atom",
        "validation_force_rmse_eV_per_A",
        "validation_stress_rmse_eV_per_A3",
        "seconds",
    )

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        validation: FrameTable | None,
        directory: Path,
        fingerprint: str,
    ) -> None:
        """Go on from ``state.pt`` in ``directory`` where there is one of the same run.

        Raises:
            InputError: the directory holds the state of another run, or a damaged one.
        """
        self.trainer, self.batches, self.validation = trainer, batches, validation
        self.directory, self.fingerprint = directory, fingerprint
        self.epoch, self.seconds, self.best_epoch = 0, 0.0, 0
        self.best_loss, self.best_average = math.inf, trainer.optimizer.average.clone()
        self.rows: list[dict[str, float]] = []
        self.state_file = directory / "state.pt"
        if self.state_file.is_file():
            self._resume()

    def _resume(self) -> None:
        device = self.trainer.device
        try:
            saved = torch.load(self.state_file, map_location=device, weights_only=True)
        except Exception as error:  # a damaged file can raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"{self.state_file}: no readable state of a run ({reason}). Remove it."
            ) from error
        if not isinstance(saved, dict) or saved.get("fingerprint") is None:
            raise InputError(f"{self.state_file}: no state of a run. Remove it to start anew.")
        if saved["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.directory} holds an unfinished run with other settings, data or versions. "
                "Choose another --out, or remove that directory."
            )
        self.trainer.optimizer.restore(saved["trainer"])
        self.best_average.copy_(saved["best_average"])
        for name in ("epoch", "seconds", "best_epoch", "best_loss", "rows"):
            setattr(self, name, saved[name])

    def save(self) -> None:
        """Write the state and the log; either is replaced only by a complete file."""
        if not self.trainer.processes.is_first:
            return
        names = ("epoch", "seconds", "best_epoch", "best_loss", "rows", "fingerprint")
        state = {name: getattr(self, name) for name in names}
        state |= {"trainer": self.trainer.optimizer.state(), "best_average": self.best_average}
        with replacing(self.state_file) as temporary:
            torch.save(state, temporary)
        with replacing(self.directory / "log.csv") as temporary, temporary.open("w") as handle:
            writer = csv.DictWriter(handle, self.LOG_FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)

    def epochs(self) -> Iterator[int]:
        """Train epoch by epoch, yielding after each; validates, logs and saves on the way."""
        config, trainer = self.trainer.config, self.trainer
        if not self.is_over():
            trainer.prepare(next(self.batches.epoch(0)))
        while not self.is_over():
            started = time.perf_counter()
            done, reached = self._progress(self.epoch), self._progress(self.epoch + 1)
            for k, index in enumerate(self.batches.epoch(self.epoch)):
                step = self.epoch * self.batches.count + k
                share = done + (reached - done) * k / self.batches.count
                rate = learning_rate(config, step, share)
                weight = energy_weight(config, share)
                trainer.step(index, rate, weight)
            self.epoch += 1
            validate = self.epoch % config.validate_every == 0
            self.seconds += self._synchronised(started)
            if validate or self.is_over():
                started = time.perf_counter()
                self._validate(rate, weight)
                self.seconds += self._synchronised(started)
                self.rows[-1]["seconds"] = self.seconds
                self.save()
            yield self.epoch

    def _synchronised(self, started: float) -> float:
        """Seconds since ``started``, the same in all processes, once the device is done."""
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return self.trainer.processes.same([time.perf_counter() - started])[0]

    def _progress(self, epoch: int) -> float:
        """Share of the run that is done after ``epoch`` epochs: of the epochs or of the time."""
        config = self.trainer.config
        share = epoch / config.epochs
        if config.time_limit_s and self.epoch:
            expected = self.seconds + (epoch - self.epoch) * self.seconds / self.epoch
            share = max(share, expected / config.time_limit_s)
        return min(share, 1.0)

    def is_over(self) -> bool:
        """Whether all epochs are done, the time is over, or the validation no longer improves."""
        config = self.trainer.config
        if self.epoch >= config.epochs or (self.epoch and self._progress(self.epoch) >= 1.0):
            return True
        waited = (self.epoch - self.best_epoch) / config.validate_every
        return bool(config.patience) and self.validation is not None and waited >= config.patience

    def _validate(self, rate: float, weight: float) -> None:
        config, trainer = self.trainer.config, self.trainer
        energy, force, stress, loss = trainer.mean_terms()
        if not math.isfinite(loss):
            raise EvaluationError(
                f"the loss is not finite in epoch {self.epoch}. The state of the last validation "
                f"is in {self.state_file}. Lower learning_rate, or look for overlapping atoms."
            )
        row = dict.fromkeys(self.LOG_FIELDS, math.nan) | {
            "epoch": self.epoch,
            "learning_rate": rate,
            "energy_weight": weight,
            "train_loss": loss,
            "train_energy_rmse_eV_per_atom": math.sqrt(energy),
            "train_force_rmse_eV_per_A": math.sqrt(force),
        }
        if self.validation is not None:
            errors = table_errors(trainer.averaged_model(), self.validation, config)
            errors = trainer.processes.same(errors)
            names = [name for name in self.LOG_FIELDS if name.startswith("validation")]
            row |= dict(zip(names, errors, strict=True))
            weights = config.final_energy_weight, config.force_weight, config.stress_weight
            loss = sum(w * e**2 for w, e in zip(weights, errors, strict=True))
            if loss < self.best_loss:
                self.best_loss, self.best_epoch = loss, self.epoch
                self.best_average.copy_(trainer.optimizer.average)
        self.rows.append(row)

    def final_model(self) -> NEMP:
        """The last averaged weights, or the best ones where early stopping is on."""
        if self.trainer.config.patience and self.validation is not None:
            self.trainer.optimizer.average.copy_(self.best_average)
        return self.trainer.averaged_model()

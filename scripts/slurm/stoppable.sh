# What the job scripts share: a fit that is stopped in time, and goes on when the job is started again.

# run_fit FLAGS...: `cli.py fit` on all tasks of the job. Requeues the job if its time was up and the run can go on.
run_fit() {
  # One task per GPU, started by srun, whose exit status is the highest of all tasks. srun does not take the cores of a
  # task from the job by itself. A task that ends early gives the others ten minutes: time to say which rank it was, or
  # to end in order, as rank 0 does that writes the report.
  # In the background, because bash runs a trap only when no command is in its foreground.
  srun --kill-on-bad-exit=0 --wait=600 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    "${PYTHON:-.venv/bin/python}" cli.py fit --trainer.strategy ddp --ckpt_path auto "$@" &
  local child=$! code=0 time_is_up=0
  # srun passes the signal on to every task. TERM is scancel's, or a preemption's, after which SLURM requeues by itself
  # where it is to: the run is saved, and that is all.
  trap 'time_is_up=1; kill -USR1 "$child" 2>/dev/null' USR1
  trap 'kill -USR1 "$child" 2>/dev/null' TERM
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" # ends early at each signal
  done
  wait "$child"
  code=$?
  # 75: stopped, and can go on. Any other status is an end, or a mistake that another start would only repeat.
  if [ "$code" -eq 75 ] && [ "$time_is_up" -eq 1 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}

# What the job scripts share: a fit that is stopped in time, and goes on when the job is started again.

# run_fit FLAGS...: `cli.py fit` on all tasks of the job. Requeues the job if the run asks to be started again.
run_fit() {
  # One task per GPU, started by srun, whose exit status is the highest of all tasks. A task that ends early gives the
  # others a minute: time enough to say which rank it was, or to end in order.
  # In the background, because bash runs a trap only when no command is in its foreground.
  srun --kill-on-bad-exit=0 --wait=60 \
    "${PYTHON:-.venv/bin/python}" cli.py fit --trainer.strategy ddp --ckpt_path auto "$@" &
  local child=$! code=0
  # srun passes the signal on to every task. TERM comes before a preemption, and asks for the same.
  trap 'kill -USR1 "$child" 2>/dev/null' USR1 TERM
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" # ends early at each signal
  done
  wait "$child"
  code=$?
  # 75: stopped, and can go on. Any other status is an end, or a mistake that another start would only repeat.
  if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}

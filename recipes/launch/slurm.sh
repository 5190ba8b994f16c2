#!/bin/bash
# One recipe on several nodes of a SLURM cluster. Rounds submit their jobs themselves (docs/rounds.md#on-a-cluster).
#   sbatch --nodes=8 --gpus-per-node=8 recipes/launch/slurm.sh recipes/launch/zero3_hpz.yaml recipes/dpo.py recipes/configs/dpo/llama3.1-70b.yaml
# Submit it from the folder of the checkout, with its environment active. It asks for a checkpoint half an hour before its time is up,
# and gives the processes as long to save it: the same command continues from there, also with another --nodes. The number of processes
# is that of the job's GPUs; `--num_processes N` before the recipe sets another (docs/checkpoints.md#another-number-of-processes).
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@1800
#SBATCH --output=%x-%j.log
set -euo pipefail
launch=$1
shift
read -r machines processes < <(
  python -c 'import sys, yaml; read = yaml.safe_load(open(sys.argv[1])); print(read["num_machines"], read["num_processes"])' "$launch"
)
# A process for each GPU of a node: 7 nodes of 8 GPUs have 56, whatever the launch file says. Where the file has one process on each
# node, its model is spread over the node's GPUs, and 7 nodes have 7.
each=$((processes / machines))
if ((each > 1)); then
  gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-$each}}
  each=${gpus##*:}  # --gpus-per-node=h100:8
fi
export PROCESSES=$((SLURM_NNODES * each))
if ((SLURM_NNODES != machines || PROCESSES != processes)) && [[ " $*" != *" --num_processes"* ]]; then
  echo "$launch: $PROCESSES processes on $SLURM_NNODES nodes, in place of $processes on $machines" >&2
fi
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MAIN_HOST=${hosts%%$'\n'*} MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000)) TORCH_ELASTIC_SHUTDOWN_TIMEOUT=1800
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c '
  launch=$1; shift
  exec python -m accelerate.commands.launch --config_file "$launch" --machine_rank "$SLURM_NODEID" \
    --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" --main_process_ip "$MAIN_HOST" --main_process_port "$MAIN_PORT" "$@"
' launch "$launch" "$@"

#!/bin/bash
# One recipe on several nodes of a SLURM cluster. Rounds submit their jobs themselves (docs/rounds.md#on-a-cluster).
#   sbatch --nodes=8 --gpus-per-node=8 recipes/launch/slurm.sh recipes/launch/zero3_hpz.yaml recipes/dpo.py recipes/configs/dpo/llama3.1-70b.yaml
# Submit it from the folder of the checkout, with its environment active. It asks for a checkpoint half an hour before its time is up,
# and gives the processes as long to save it: the same command continues from there. With other nodes it does so too, if it says how many
# processes they have (docs/checkpoints.md#another-number-of-processes), here on 7:
#   sbatch --nodes=7 --gpus-per-node=8 recipes/launch/slurm.sh recipes/launch/zero3_hpz.yaml --num_processes 56 recipes/dpo.py ...
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@1800
#SBATCH --output=%x-%j.log
set -euo pipefail
launch=$1
shift
# Processes are divided among the nodes: on 4 nodes, the 64 processes of a launch file for 8 nodes would be 16 on each.
nodes=$(python -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1])).get("num_machines", 1))' "$launch")
for word in "$@"; do
  case $word in
    *.py) break ;;
    --num_processes | --num_processes=*) nodes=$SLURM_NNODES ;;
  esac
done
if [ "$nodes" != "$SLURM_NNODES" ]; then
  echo "$launch: num_machines is $nodes, and this job has $SLURM_NNODES nodes. Submit it with --nodes=$nodes, or add" \
    "--num_processes with the processes of all $SLURM_NNODES nodes before the recipe" >&2
  exit 2
fi
MAIN_HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_HOST MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000)) TORCH_ELASTIC_SHUTDOWN_TIMEOUT=1800
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c '
  launch=$1; shift
  exec python -m accelerate.commands.launch --config_file "$launch" --machine_rank "$SLURM_NODEID" \
    --num_machines "$SLURM_NNODES" --main_process_ip "$MAIN_HOST" --main_process_port "$MAIN_PORT" "$@"
' launch "$launch" "$@"

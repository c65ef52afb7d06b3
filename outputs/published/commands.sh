#!/bin/bash
# Makes all published runs again and publishes them: bash outputs/published/commands.sh
# From the root of a clean checkout, with PRUNEBENCH_DATA set. Start it again to go on where it stopped.
# The checkpoints are those of akamaster/pytorch_resnet_cifar10; paths.download=true fetches what is missing.
set -e
runs=${PRUNEBENCH_OUTPUTS:-outputs}/runs

for net in resnet20 resnet56; do
    common=(dataset=cifar10 model=$net model.pretrained=akamaster schedule=oneshot method.prune_ratio=0.1,0.3,0.5
        method.normalise=none paths.download=true latency=false trainer.num_threads=1 trainer.progress=false)
    python -m prunebench -m "${common[@]}" method=l1norm,l2norm,fpgm,bn_scale,bn_importance
    python -m prunebench -m "${common[@]}" method=random seed=0,1,2
    python scripts/publish.py "$runs"/*-$net-cifar10
done
python scripts/report.py --readme README.md

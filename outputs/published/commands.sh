#!/bin/bash
# Makes all published runs again and publishes them: bash outputs/published/commands.sh <folder of the checkpoints>
# From the root of a clean checkout, with PRUNEBENCH_DATA set. Start it again to go on where it stopped.
# The checkpoints resnet20-12fca82f.th and resnet56-4bfd9763.th are those of akamaster/pytorch_resnet_cifar10.
set -e
weights=${1:?give the folder of the checkpoints}
runs=${PRUNEBENCH_OUTPUTS:-outputs}/runs

for net in resnet20:resnet20-12fca82f.th resnet56:resnet56-4bfd9763.th; do
    common=(dataset=cifar10 "dataset.mean=[0.485,0.456,0.406]" "dataset.std=[0.229,0.224,0.225]" schedule=oneshot
        model="${net%%:*}" model.pretrained="$weights/${net##*:}" method.prune_ratio=0.1,0.3,0.5
        latency=false trainer.num_threads=1 trainer.progress=false)
    python -m prunebench -m "${common[@]}" method=l1norm,l2norm,fpgm,bn_scale,bn_importance
    python -m prunebench -m "${common[@]}" method=random seed=0,1,2
    python scripts/publish.py "$runs"/*-"${net%%:*}"-cifar10
done
python scripts/report.py --readme README.md

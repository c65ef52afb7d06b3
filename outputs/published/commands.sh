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

# half of the MACs, inside of blocks, and two epochs
tune='{epochs: 2, lr: 0.01, lr_schedule: cosine, nesterov: true, weight_decay: 5.0e-4, batch_size: 128}'
common=(dataset=cifar10 model=resnet56 model.pretrained=akamaster schedule=finetune method.target_macs=0.5
    trainer.precision=bf16-mixed paths.download=true latency=false trainer.num_threads=1 trainer.progress=false)
half() { python -m prunebench "${common[@]}" "schedule.phases.finetune=$tune" "$@"; }
for method in l1norm taylor group_norm; do half method=$method method.layers=interior method.coupling=free; done
for seed in 0 1 2; do half method=random seed=$seed method.layers=interior method.coupling=free; done
half method=thinet method.between_epochs=0
half method=channel_pruning
python -m prunebench "${common[@]}" method=fsm method.block_epoch_share=0.05 schedule.phases.finetune.epochs=2 \
    schedule.phases.finetune.weight_decay=5.0e-4
python scripts/publish.py "$runs"/{l1norm,taylor,group_norm,random,thinet,channel_pruning}-resnet56-cifar10
python scripts/publish.py --declared 'after each block FSM trains for a twentieth of an epoch' "$runs"/fsm-resnet56-cifar10

# ResNet-20 in a few epochs
short=(dataset=cifar10 model=resnet20 trainer.precision=bf16-mixed trainer.num_threads=1 paths.download=true latency=false
    trainer.progress=false)
python -m prunebench "${short[@]}" method=cap model.pretrained=akamaster schedule=finetune method.target_macs=0.6 \
    method.mask_epochs=2 "schedule.phases.finetune=$tune"
python -m prunebench "${short[@]}" method=sss model.pretrained=akamaster schedule=simultaneous method.penalty=0.1 \
    schedule.phases.train.epochs=3 schedule.phases.train.lr=0.02 'schedule.phases.train.milestones=[0.7]' \
    schedule.phases.train.batch_size=128
python -m prunebench "${short[@]/bf16-mixed/32-true}" method=sss schedule=simultaneous method.penalty=0.06 \
    schedule.phases.train.epochs=5 schedule.phases.train.lr=0.1 'schedule.phases.train.milestones=[0.5,0.8]' \
    schedule.phases.train.batch_size=128
dcff() { python -m prunebench "${short[@]}" method=dcff schedule=scratch schedule.phases.train.epochs=5 \
    schedule.phases.train.batch_size=128 "$@"; }
dcff
dcff method.score=official method.slot_assignment=topk
dcff method.temperature.k=0.05 method.temperature.end=20
python scripts/publish.py "$runs"/{cap,sss,dcff}-resnet20-cifar10

python -m prunebench method=lottery_ticket dataset=mnist model=lenet300_100 'method.arms=[ticket,random_reinit]' \
    method.output_ratio=0.1 schedule.phases.finetune.rounds=10 schedule.phases.pretrain.epochs=11 trainer.num_threads=1
python scripts/publish.py "$runs"/lottery_ticket-lenet300_100-mnist

# a language model at 0.7 of the parameters of its factors gone, by gates and by size, and whole, 8 epochs each
language=(dataset=enwik8_4mb model=sru_tiny schedule=finetune schedule.phases.finetune.epochs=8 latency=false
    trainer.num_threads=1 trainer.progress=false)
for method in flop_l0 agp_structured none; do python -m prunebench "${language[@]}" method=$method; done
python -m prunebench "${language[@]}" method=flop_l0 method.multiplier_lr=0.1
python scripts/publish.py "$runs"/{flop_l0,agp_structured,none}-sru_tiny-enwik8_4mb

# rows of papers that this machine trains at full length
whole=(table=all latency=false trainer.num_threads=1 trainer.progress=false)
python scripts/reproduce.py paper=slimming 'rows=t3_mlp_784_500_300' seeds=3 "${whole[@]}"
python scripts/reproduce.py paper=bbb 'rows=t1_400_[sg]*' "${whole[@]}"
python scripts/reproduce.py paper=simultaneous_vi 'rows=abstract_lenet300_100-x[123]' seeds=3 "${whole[@]}"
python scripts/reproduce.py paper=variational_dropout 'rows=f1a_*-w100' "${whole[@]}"
for row in mnist_mlp_ssig mnist_mlp_edge; do python scripts/reproduce.py paper=ss_ig rows=$row "${whole[@]}"; done
python scripts/publish.py "$runs"/*-{mlp_2x400,mlp_3_hidden,mlp_784_500_300,mlp_784_400_400,lenet300_100}-mnist-*

# a net that was trained without attacks, under attack, and one with masks that was trained under attack
attacked=(method=anp dataset=mnist model=lenet5 'dataset.mean=[0.0]' 'dataset.std=[1.0]' attack=pgd attack.step=0.01
    latency=false trainer.num_threads=1 trainer.progress=false)
python -m prunebench "${attacked[@]}" method.mode=standard schedule=simultaneous schedule.phases.train.epochs=10
python scripts/publish.py "$runs"/anp-lenet5-mnist
fifth=(schedule.phases.{pretrain,train}.{epochs=10,epoch_share=0.2})
python -m prunebench "${attacked[@]}" method.mode=anp_vs "${fifth[@]}"
python -m prunebench "${attacked[@]}" method.mode=at schedule=simultaneous "${fifth[@]:2}"
python scripts/publish.py --declared 'ten epochs over a fifth of the training set' "$runs"/anp-lenet5-mnist

# a shape of ResNet-20 that is searched for, and one that is drawn in the same interval of MACs
short=(dataset=cifar10 method=tas method.search_epochs=2 method.search_batch_size=64 trainer.precision=bf16-mixed
    schedule.phases.{pretrain,scratch}.{epochs=3,batch_size=128,warmup_epochs=0} trainer.num_threads=1
    trainer.progress=false)
python -m prunebench "${short[@]}"
python -m prunebench "${short[@]}" method.structure=random
python scripts/publish.py --declared 'three epochs of pretraining and of the small net, two of the search' \
    "$runs"/tas-shaped_resnet20-cifar10

# nets in integers
for net in resnet20 resnet56; do
    python -m prunebench dataset=cifar10 model=$net model.pretrained=akamaster schedule=oneshot method=l1norm \
        method.prune_ratio=0.05 method.normalise=none method.layers=interior quantize=int8 paths.download=true \
        latency=false trainer.num_threads=1 trainer.progress=false
    python scripts/publish.py "$runs"/l1norm-$net-cifar10
done

python -m prunebench model=vgg16 dataset.size=32 method=l1norm method.target_macs=0.5 schedule.phases.pretrain.epochs=8 \
    schedule.phases.finetune.epochs=2 quantize=int8 trainer.num_threads=1 trainer.progress=false
python -m prunebench dataset=cifar10 model=vgg16 model.width=32 method=l1norm method.target_macs=0.5 quantize=int8 \
    schedule.phases.pretrain.{epochs=5,batch_size=128} schedule.phases.finetune.{epochs=2,batch_size=128} \
    trainer.precision=bf16-mixed trainer.num_threads=1 trainer.progress=false
python scripts/publish.py "$runs"/l1norm-vgg16-{digits,cifar10}

# what criteria choose where all may cut the same layers, right after the cut, and one epoch later
digits=(dataset=digits model=resnet20 latency=false trainer.num_threads=1 trainer.progress=false)
criteria=random,l1norm,l2norm,fpgm,bn_scale,bn_importance,taylor,group_norm,lamp
python -m prunebench -m "${digits[@]}" schedule=oneshot method=$criteria method.layers=interior method.coupling=free \
    method.scope=layer method.target_macs=0.8,0.65,0.5 seed=0,1,2,3,4
python -m prunebench -m "${digits[@]}" schedule.phases.finetune.epochs=1 method=$criteria method.target_macs=0.3 seed=0,1,2
python scripts/publish.py "$runs"/{random,l1norm,l2norm,fpgm,bn_scale,bn_importance,taylor,group_norm,lamp}-resnet20-digits

# each method with one word
methods=(fpgm l1norm l2norm random bn_scale bn_importance taylor group_norm lamp magnitude agp fpgm_mix
    soft_filter_pruning sss slimming thinet cap none fsm dcff channel_pruning qat sanp swag lottery_ticket scl bbb
    variational_dropout sparse_variational_dropout sparse_vi_criteria js_bnn radio_vi pruning_from_scratch
    simultaneous_vi tas vnd anp agp_structured ss_ig dllp flop_l0)
for method in "${methods[@]}"; do
    python -m prunebench method=$method latency=false trainer.num_threads=1 trainer.progress=false
    for made in "$runs/$method"-*-{digits,bytes}; do
        if [[ -d $made ]]; then python scripts/publish.py "$made"; fi
    done
done

python scripts/report.py --readme README.md
python scripts/report.py --readme prunebench/methods/README.md

"""Fine-tuning: a task, a head on the tower, a loop, and a sweep of learning rates; see docs/finetuning.md."""

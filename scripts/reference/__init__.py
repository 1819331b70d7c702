"""What `scripts/train_reference_model` is made of: drawing, captions, training, export and judgement."""

"""What a person does with the representation outside Nerfstudio: fit a signal, measure, look, export."""

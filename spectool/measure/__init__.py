"""What is measured on samples and models: information content, probes, scores against the papers."""

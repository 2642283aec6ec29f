"""OpenAI's surface over jobs: files, batches and models, field for field, so that its client works unchanged."""

"""The gate `ai-review`: a model that did not write the change and holds nothing says whether it may land."""

"""Model families. Each is one module, named after the checkpoint's `model_type`, with a class `Model` that derives from
`models.base.Model`."""

"""Model families: one module each, named after the checkpoint's `model_type`, with a class `Model` that derives from
`models.base.Model`."""

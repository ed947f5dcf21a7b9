"""The registry of tasks: `data.kind` -> class; a dotted path "your_module:YourTask" works too."""

TASKS = {"text": "jaxlm.data.tasks.text:TextTask"}

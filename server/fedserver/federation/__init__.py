"""The rounds of a server: tasks carried out, clients told, updates taken, models released.

`interface` is what the services ask; `federation` is all of it in one object, made of `hosting`
(tasks), `check_ins` (who asks for work), `parts` (who has some) and `uploads`. A `driver` with its
`lease` carries a task out; each `attempt` at a round comes of `opening`, and writes a `journal`. It
has a session of secure aggregation (`masked`), a `cohort`, `orders` for it, and its `reports`, of
which `payments` and `results` make the next model.
"""

-- spent: how often a task has ended at each cost.
-- Params: task_id bigint   Returns: (failures, crashes, losses)   Index: task_pkey.
SELECT failures, crashes, losses FROM protheon.task WHERE id = %(task_id)s;

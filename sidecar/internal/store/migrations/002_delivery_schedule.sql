-- What the rule that caused a delivery says about its turn: River's priority in the destination's queue (1 = high, 2 = normal, 3 = low),
-- and when the rule's schedule lets it go at the earliest (0 = at once).
ALTER TABLE delivery ADD COLUMN priority   INTEGER NOT NULL DEFAULT 2;
ALTER TABLE delivery ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;

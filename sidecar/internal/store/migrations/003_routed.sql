-- The stored file and the model for which the rules have decided ("<file_uuid> <model>"). One arrival is announced several times (hook,
-- follower, a hook that fires again); rules that change in between must not send it to two places.
ALTER TABLE instance ADD COLUMN routed TEXT NOT NULL DEFAULT '';

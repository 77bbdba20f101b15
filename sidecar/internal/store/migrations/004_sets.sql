-- A delivery sends a set of instances: one instance, or what a series or a study holds when it is complete. What it sends stands in
-- delivery_item, and that an instance goes to a destination once is decided there.
CREATE TABLE delivery_new (
    id           TEXT PRIMARY KEY,             -- the stable delivery id
    level        TEXT    NOT NULL,             -- instances, series, studies
    resource_id  TEXT    NOT NULL,             -- of that level
    study_id     TEXT    NOT NULL,
    content      TEXT    NOT NULL,             -- of an instance its MD5, else a digest of all items
    instances    INTEGER NOT NULL,             -- how many the set had when it was made
    destination  TEXT    NOT NULL,             -- that the rule names
    via          TEXT    NOT NULL DEFAULT '',  -- the alternate destination that it goes to instead, '' = destination
    rule         TEXT    NOT NULL,
    state        TEXT    NOT NULL,             -- see DeliveryState in delivery.go
    orthanc_job  TEXT    NOT NULL DEFAULT '',
    job          INTEGER NOT NULL DEFAULT 0,
    attempts     INTEGER NOT NULL DEFAULT 0,
    reason       TEXT    NOT NULL DEFAULT '',
    last_error   TEXT    NOT NULL DEFAULT '',
    priority     INTEGER NOT NULL DEFAULT 2,   -- in the destination's queue: 1 = high, 2 = normal, 3 = low
    not_before   INTEGER NOT NULL DEFAULT 0,   -- the rule's schedule; 0 = at once
    received_at  INTEGER NOT NULL,             -- of the newest instance, by Orthanc
    created_at   INTEGER NOT NULL,
    since        INTEGER NOT NULL,             -- from when give_up_after counts: the creation, or when it was taken up again
    submitted_at INTEGER NOT NULL DEFAULT 0,
    finished_at  INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE delivery_item (
    delivery_id  TEXT NOT NULL,
    instance_id  TEXT NOT NULL,
    destination  TEXT NOT NULL,                -- a second row when the delivery goes to an alternate
    content_md5  TEXT NOT NULL,                -- '' for what the router does not look at (reports, CT …)
    file_uuid    TEXT NOT NULL,                -- Orthanc's name of the stored file; '' in rows of older releases
    dropped      TEXT NOT NULL DEFAULT '',     -- why it is not sent after all: deleted, overwritten
    PRIMARY KEY (delivery_id, instance_id, destination)
) WITHOUT ROWID;

INSERT INTO delivery_new (id, level, resource_id, study_id, content, instances, destination, rule, state, orthanc_job, job, attempts, reason, last_error,
        priority, not_before, received_at, created_at, since, submitted_at, finished_at)
    SELECT d.id, 'instances', d.instance_id, coalesce((SELECT i.study_id FROM instance i WHERE i.id = d.instance_id), ''), d.content_md5, 1, d.destination,
        d.rule, d.state, d.orthanc_job, d.job, d.attempts, d.reason, d.last_error, d.priority, d.not_before, d.received_at, d.created_at, d.created_at,
        d.submitted_at, d.finished_at FROM delivery d;
INSERT INTO delivery_item (delivery_id, instance_id, destination, content_md5, file_uuid)
    SELECT id, instance_id, destination, content_md5, '' FROM delivery;
DROP TABLE delivery;
ALTER TABLE delivery_new RENAME TO delivery;
CREATE INDEX delivery_state    ON delivery (state, destination, via, created_at); -- covers what is counted at every scrape
CREATE INDEX delivery_created  ON delivery (created_at);
CREATE INDEX delivery_resource ON delivery (resource_id);
CREATE INDEX delivery_item_instance ON delivery_item (instance_id, destination);

-- What rules of level series and study wait for: one row for each rule and resource, from the first instance that the rule may send on.
CREATE TABLE gathering (
    level       TEXT    NOT NULL,              -- series, studies
    resource_id TEXT    NOT NULL,
    rule        TEXT    NOT NULL,
    study_id    TEXT    NOT NULL,
    state       TEXT    NOT NULL,              -- see GatheringState in gathering.go
    reason      TEXT    NOT NULL DEFAULT '',   -- what it waits for, or how it ended
    sent        INTEGER NOT NULL DEFAULT 0,    -- the rule has sent the resource before: what comes late follows it
    released    INTEGER NOT NULL DEFAULT 0,    -- by command: not to wait any longer
    touched     INTEGER NOT NULL DEFAULT 1,    -- counts what came: a decision that saw an older count is no end
    opened_at   INTEGER NOT NULL,              -- the first instance of this round
    changed_at  INTEGER NOT NULL,              -- the last one
    decided_at  INTEGER NOT NULL DEFAULT 0,
    reviewed_at INTEGER NOT NULL DEFAULT 0,    -- when a person's decision about results under review was first seen
    job         INTEGER NOT NULL DEFAULT 0,    -- the unfinished job of the resource
    PRIMARY KEY (level, resource_id, rule)
) WITHOUT ROWID;
CREATE INDEX gathering_state ON gathering (state, opened_at);
CREATE INDEX gathering_study ON gathering (study_id);

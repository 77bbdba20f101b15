-- All times are Unix milliseconds, UTC. Orthanc identifiers only: no tag of a patient, study or series is ever stored here.

CREATE TABLE setting (
    name       TEXT PRIMARY KEY,
    value      TEXT    NOT NULL,
    changed_at INTEGER NOT NULL
);

-- One row for each instance that was ever marked as due. "due" counts the marks, "done" is the mark that the last finished
-- classification had seen: while done < due there is work, whatever the queue says.
CREATE TABLE instance (
    id           TEXT PRIMARY KEY,
    state        TEXT    NOT NULL,             -- see State in instance.go
    reason       TEXT    NOT NULL DEFAULT '',  -- of a terminal state
    due          INTEGER NOT NULL,
    done         INTEGER NOT NULL DEFAULT 0,
    classify_job INTEGER NOT NULL DEFAULT 0,   -- the unfinished job, 0 when none
    publish_job  INTEGER NOT NULL DEFAULT 0,
    source       TEXT    NOT NULL,             -- of the last mark: hook, follower, replay, sweep, command
    forward      INTEGER NOT NULL,             -- 0: label only (a replay, a reset, a sweep)
    series_id    TEXT    NOT NULL DEFAULT '',
    study_id     TEXT    NOT NULL DEFAULT '',
    file_uuid    TEXT    NOT NULL DEFAULT '',  -- Orthanc's name of the stored file: new after every overwrite
    labelled_uuid TEXT   NOT NULL DEFAULT '',  -- the stored file whose result was published last
    content_md5  TEXT    NOT NULL DEFAULT '',
    model        TEXT    NOT NULL DEFAULT '',
    last_error   TEXT    NOT NULL DEFAULT '',
    received_at  INTEGER NOT NULL DEFAULT 0,   -- by Orthanc (metadata ReceptionDate)
    first_marked INTEGER NOT NULL,
    marked_at    INTEGER NOT NULL,
    finished_at  INTEGER NOT NULL DEFAULT 0    -- published or terminal
) WITHOUT ROWID;
CREATE INDEX instance_state    ON instance (state, marked_at);
CREATE INDEX instance_study    ON instance (study_id) WHERE study_id <> '';
CREATE INDEX instance_series   ON instance (series_id) WHERE series_id <> '';
CREATE INDEX instance_finished ON instance (finished_at) WHERE finished_at > 0;

CREATE TABLE result (
    instance_id   TEXT    NOT NULL,
    content_md5   TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    class         TEXT    NOT NULL,
    confidence    REAL    NOT NULL,
    probabilities TEXT    NOT NULL,            -- JSON {class: probability}
    review        INTEGER NOT NULL,
    reasons       TEXT    NOT NULL,            -- JSON [reason]
    tag           TEXT    NOT NULL,            -- agrees, disagrees, missing, unknown
    classified_at INTEGER NOT NULL,
    PRIMARY KEY (instance_id, content_md5, model)
) WITHOUT ROWID;

-- The ledger of what is ours among Orthanc's labels. Only labels that stand here as intended or written are ever removed.
CREATE TABLE label (
    level       TEXT    NOT NULL,              -- instances, series, studies
    resource_id TEXT    NOT NULL,
    label       TEXT    NOT NULL,
    state       TEXT    NOT NULL,              -- intended, written, removed_by_person
    changed_at  INTEGER NOT NULL,
    PRIMARY KEY (level, resource_id, label)
) WITHOUT ROWID;

CREATE TABLE delivery (
    id           TEXT PRIMARY KEY,             -- the stable delivery id
    instance_id  TEXT    NOT NULL,
    content_md5  TEXT    NOT NULL,
    destination  TEXT    NOT NULL,
    rule         TEXT    NOT NULL,
    state        TEXT    NOT NULL,             -- see DeliveryState in delivery.go
    orthanc_job  TEXT    NOT NULL DEFAULT '',
    job          INTEGER NOT NULL DEFAULT 0,
    attempts     INTEGER NOT NULL DEFAULT 0,
    reason       TEXT    NOT NULL DEFAULT '',
    last_error   TEXT    NOT NULL DEFAULT '',
    received_at  INTEGER NOT NULL,             -- of the instance, by Orthanc
    created_at   INTEGER NOT NULL,
    submitted_at INTEGER NOT NULL DEFAULT 0,
    finished_at  INTEGER NOT NULL DEFAULT 0,
    UNIQUE (instance_id, content_md5, destination)
) WITHOUT ROWID;
CREATE INDEX delivery_state ON delivery (state, destination, created_at);

-- The story of each instance, one row for each thing that happened to it.
CREATE TABLE event (
    id          INTEGER PRIMARY KEY,
    instance_id TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    stage       TEXT    NOT NULL,              -- intake, classify, publish, deliver, sweep
    job         INTEGER NOT NULL DEFAULT 0,
    attempt     INTEGER NOT NULL DEFAULT 0,
    outcome     TEXT    NOT NULL,
    detail      TEXT    NOT NULL DEFAULT '',
    took_ms     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX event_instance ON event (instance_id, id);
CREATE INDEX event_at ON event (at);

-- Where the follower of /changes stands, and a few rows of the log by which a reset or restored database is recognised.
CREATE TABLE cursor (
    name TEXT PRIMARY KEY,
    seq  INTEGER NOT NULL,
    live INTEGER NOT NULL DEFAULT 0            -- changes up to this one are a replay: labelled, not forwarded
);
CREATE TABLE anchor (
    seq  INTEGER PRIMARY KEY,
    id   TEXT NOT NULL,
    date TEXT NOT NULL
);

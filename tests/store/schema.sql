CREATE INDEX ix__files_content_hash ON _files (content_hash);

CREATE INDEX ix__models_blob_hash ON _models (blob_hash);

CREATE INDEX ix__refs_model_id ON _refs (model_id);

CREATE TABLE _blobs (
	hash TEXT NOT NULL,
	size BIGINT NOT NULL,
	data BLOB NOT NULL,
	CONSTRAINT pk__blobs PRIMARY KEY (hash),
	CONSTRAINT ck__blobs_integers CHECK (typeof(size) IN ('integer', 'null'))
);

CREATE TABLE _errors (
	endpoint TEXT NOT NULL,
	repo_id TEXT NOT NULL,
	revision TEXT NOT NULL,
	code TEXT NOT NULL,
	message TEXT NOT NULL,
	hint TEXT,
	times BIGINT NOT NULL,
	first_seen_at TEXT NOT NULL,
	last_seen_at TEXT NOT NULL,
	scan_id INTEGER,
	hubvram_version TEXT NOT NULL,
	CONSTRAINT pk__errors PRIMARY KEY (endpoint, repo_id, revision),
	CONSTRAINT ck__errors_integers CHECK (typeof(times) IN ('integer', 'null') AND typeof(scan_id) IN ('integer', 'null')),
	CONSTRAINT fk__errors_scan_id FOREIGN KEY(scan_id) REFERENCES _scans (id) ON DELETE SET NULL
);

CREATE TABLE _estimates (
	run_id INTEGER NOT NULL,
	method TEXT NOT NULL,
	position BIGINT NOT NULL,
	status TEXT NOT NULL,
	reason TEXT,
	trainable_parameters BIGINT,
	peak_allocated_bytes BIGINT,
	peak_reserved_bytes BIGINT,
	total_bytes BIGINT,
	peak_phase TEXT,
	weights_bytes BIGINT,
	gradients_bytes BIGINT,
	optimizer_bytes BIGINT,
	activations_bytes BIGINT,
	temporary_bytes BIGINT,
	loaded_bytes BIGINT,
	steady_bytes BIGINT,
	not_counted TEXT NOT NULL,
	gpus TEXT NOT NULL,
	CONSTRAINT pk__estimates PRIMARY KEY (run_id, method),
	CONSTRAINT ck__estimates_integers CHECK (typeof(position) IN ('integer', 'null') AND typeof(trainable_parameters) IN ('integer', 'null') AND typeof(peak_allocated_bytes) IN ('integer', 'null') AND typeof(peak_reserved_bytes) IN ('integer', 'null') AND typeof(total_bytes) IN ('integer', 'null') AND typeof(weights_bytes) IN ('integer', 'null') AND typeof(gradients_bytes) IN ('integer', 'null') AND typeof(optimizer_bytes) IN ('integer', 'null') AND typeof(activations_bytes) IN ('integer', 'null') AND typeof(temporary_bytes) IN ('integer', 'null') AND typeof(loaded_bytes) IN ('integer', 'null') AND typeof(steady_bytes) IN ('integer', 'null')),
	CONSTRAINT ck__estimates_status CHECK (status IN ('ok', 'partial', 'skipped')),
	CONSTRAINT fk__estimates_run_id FOREIGN KEY(run_id) REFERENCES _runs (id) ON DELETE CASCADE
);

CREATE TABLE _explanations (
	run_id INTEGER NOT NULL,
	method TEXT NOT NULL,
	data BLOB NOT NULL,
	CONSTRAINT pk__explanations PRIMARY KEY (run_id, method),
	CONSTRAINT fk__explanations_run_id FOREIGN KEY(run_id) REFERENCES _runs (id) ON DELETE CASCADE
);

CREATE TABLE _files (
	model_id INTEGER NOT NULL,
	position BIGINT NOT NULL,
	path TEXT NOT NULL,
	size BIGINT,
	role TEXT NOT NULL,
	reason TEXT,
	header_bytes BIGINT,
	content_hash TEXT,
	CONSTRAINT pk__files PRIMARY KEY (model_id, position),
	CONSTRAINT ck__files_integers CHECK (typeof(size) IN ('integer', 'null') AND typeof(header_bytes) IN ('integer', 'null')),
	CONSTRAINT fk__files_model_id FOREIGN KEY(model_id) REFERENCES _models (id) ON DELETE CASCADE,
	CONSTRAINT uq__files_model_id_path UNIQUE (model_id, path)
);

CREATE TABLE _models (
	id INTEGER NOT NULL,
	endpoint TEXT NOT NULL,
	repo_id TEXT NOT NULL,
	commit_sha TEXT NOT NULL,
	is_newest BOOLEAN NOT NULL,
	author TEXT,
	model_type TEXT,
	architecture TEXT,
	family TEXT,
	parameters BIGINT NOT NULL,
	stored_bytes BIGINT NOT NULL,
	logical_parameters BIGINT NOT NULL,
	logical_note TEXT,
	dtype TEXT,
	tensor_count BIGINT NOT NULL,
	max_seq_len BIGINT,
	gated TEXT,
	library_name TEXT,
	pipeline_tag TEXT,
	fetched_at TEXT NOT NULL,
	hub_version TEXT,
	hubvram_version TEXT NOT NULL,
	config TEXT NOT NULL,
	metadata TEXT NOT NULL,
	warnings TEXT NOT NULL,
	description_warnings TEXT NOT NULL,
	blob_hash TEXT NOT NULL,
	CONSTRAINT pk__models PRIMARY KEY (id),
	CONSTRAINT ck__models_integers CHECK (typeof(is_newest) IN ('integer', 'null') AND typeof(parameters) IN ('integer', 'null') AND typeof(stored_bytes) IN ('integer', 'null') AND typeof(logical_parameters) IN ('integer', 'null') AND typeof(tensor_count) IN ('integer', 'null') AND typeof(max_seq_len) IN ('integer', 'null')),
	CONSTRAINT fk__models_blob_hash FOREIGN KEY(blob_hash) REFERENCES _blobs (hash),
	CONSTRAINT uq__models_endpoint_repo_id_commit_sha UNIQUE (endpoint, repo_id, commit_sha)
);

CREATE TABLE _parameters (
	model_id INTEGER NOT NULL,
	dtype TEXT NOT NULL,
	count BIGINT NOT NULL,
	bytes BIGINT,
	CONSTRAINT pk__parameters PRIMARY KEY (model_id, dtype),
	CONSTRAINT ck__parameters_integers CHECK (typeof(count) IN ('integer', 'null') AND typeof(bytes) IN ('integer', 'null')),
	CONSTRAINT fk__parameters_model_id FOREIGN KEY(model_id) REFERENCES _models (id) ON DELETE CASCADE
);

CREATE TABLE _refs (
	endpoint TEXT NOT NULL,
	repo_id TEXT NOT NULL,
	revision TEXT NOT NULL,
	model_id INTEGER NOT NULL,
	checked_at TEXT NOT NULL,
	CONSTRAINT pk__refs PRIMARY KEY (endpoint, repo_id, revision),
	CONSTRAINT ck__refs_integers CHECK (typeof(model_id) IN ('integer', 'null')),
	CONSTRAINT fk__refs_model_id FOREIGN KEY(model_id) REFERENCES _models (id) ON DELETE CASCADE
);

CREATE TABLE _runs (
	id INTEGER NOT NULL,
	model_id INTEGER NOT NULL,
	settings_key TEXT NOT NULL,
	formula_version BIGINT NOT NULL,
	is_newest BOOLEAN NOT NULL,
	batch_size BIGINT,
	seq_len BIGINT,
	source_len BIGINT,
	dtype TEXT,
	mixed_precision TEXT,
	optim TEXT,
	gradient_checkpointing BOOLEAN,
	attn_implementation TEXT,
	padding BOOLEAN,
	max_grad_norm DOUBLE,
	gradient_accumulation_steps BIGINT,
	use_liger_kernel BOOLEAN,
	num_gpus BIGINT,
	strategy TEXT,
	offload TEXT,
	image_tokens BIGINT,
	keep_outputs BOOLEAN,
	peft TEXT NOT NULL,
	quantization TEXT NOT NULL,
	stack TEXT NOT NULL,
	asked_settings TEXT NOT NULL,
	applied_settings TEXT NOT NULL,
	warnings TEXT NOT NULL,
	estimated_at TEXT NOT NULL,
	hubvram_version TEXT NOT NULL,
	CONSTRAINT pk__runs PRIMARY KEY (id),
	CONSTRAINT ck__runs_integers CHECK (typeof(model_id) IN ('integer', 'null') AND typeof(formula_version) IN ('integer', 'null') AND typeof(is_newest) IN ('integer', 'null') AND typeof(batch_size) IN ('integer', 'null') AND typeof(seq_len) IN ('integer', 'null') AND typeof(source_len) IN ('integer', 'null') AND typeof(gradient_checkpointing) IN ('integer', 'null') AND typeof(padding) IN ('integer', 'null') AND typeof(gradient_accumulation_steps) IN ('integer', 'null') AND typeof(use_liger_kernel) IN ('integer', 'null') AND typeof(num_gpus) IN ('integer', 'null') AND typeof(image_tokens) IN ('integer', 'null') AND typeof(keep_outputs) IN ('integer', 'null')),
	CONSTRAINT fk__runs_model_id FOREIGN KEY(model_id) REFERENCES _models (id) ON DELETE CASCADE,
	CONSTRAINT uq__runs_model_id_settings_key_formula_version UNIQUE (model_id, settings_key, formula_version)
);

CREATE TABLE _scans (
	id INTEGER NOT NULL,
	started_at TEXT NOT NULL,
	finished_at TEXT,
	status TEXT NOT NULL,
	total BIGINT,
	ok BIGINT,
	failed BIGINT,
	settings TEXT,
	hubvram_version TEXT NOT NULL,
	CONSTRAINT pk__scans PRIMARY KEY (id),
	CONSTRAINT ck__scans_integers CHECK (typeof(total) IN ('integer', 'null') AND typeof(ok) IN ('integer', 'null') AND typeof(failed) IN ('integer', 'null')),
	CONSTRAINT ck__scans_status CHECK (status IN ('running', 'finished', 'interrupted'))
);

CREATE TABLE _schema_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT _schema_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE _tensors (
	model_id INTEGER NOT NULL,
	position BIGINT NOT NULL,
	name TEXT NOT NULL,
	dtype TEXT NOT NULL,
	shape TEXT NOT NULL,
	count BIGINT NOT NULL,
	parameters BIGINT NOT NULL,
	bytes BIGINT,
	CONSTRAINT pk__tensors PRIMARY KEY (model_id, position),
	CONSTRAINT ck__tensors_integers CHECK (typeof(count) IN ('integer', 'null') AND typeof(parameters) IN ('integer', 'null') AND typeof(bytes) IN ('integer', 'null')),
	CONSTRAINT fk__tensors_model_id FOREIGN KEY(model_id) REFERENCES _models (id) ON DELETE CASCADE,
	CONSTRAINT uq__tensors_model_id_name_dtype_shape UNIQUE (model_id, name, dtype, shape)
);

CREATE VIEW errors AS SELECT _errors.repo_id AS repo_id, _errors.revision AS revision, _errors.code AS code, _errors.message AS message, _errors.hint AS hint, _errors.times AS times, _errors.first_seen_at AS first_seen_at, _errors.last_seen_at AS last_seen_at, _errors.scan_id AS scan_id, _errors.hubvram_version AS hubvram_version, _errors.endpoint AS endpoint
FROM _errors;

CREATE VIEW estimate_history AS SELECT _models.repo_id AS repo_id, _models.commit_sha AS commit_sha, _estimates.method AS method, _estimates.status AS status, _estimates.reason AS reason, _estimates.trainable_parameters AS trainable_parameters, _estimates.peak_allocated_bytes AS peak_allocated_bytes, round(CAST(_estimates.peak_allocated_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS peak_allocated_gib, _estimates.peak_reserved_bytes AS peak_reserved_bytes, round(CAST(_estimates.peak_reserved_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS peak_reserved_gib, _estimates.total_bytes AS total_bytes, round(CAST(_estimates.total_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS total_gib, _estimates.peak_phase AS peak_phase, _estimates.weights_bytes AS weights_bytes, round(CAST(_estimates.weights_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS weights_gib, _estimates.gradients_bytes AS gradients_bytes, round(CAST(_estimates.gradients_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS gradients_gib, _estimates.optimizer_bytes AS optimizer_bytes, round(CAST(_estimates.optimizer_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS optimizer_gib, _estimates.activations_bytes AS activations_bytes, round(CAST(_estimates.activations_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS activations_gib, _estimates.temporary_bytes AS temporary_bytes, round(CAST(_estimates.temporary_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS temporary_gib, _estimates.loaded_bytes AS loaded_bytes, round(CAST(_estimates.loaded_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS loaded_gib, _estimates.steady_bytes AS steady_bytes, round(CAST(_estimates.steady_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS steady_gib, _estimates.not_counted AS not_counted, _estimates.gpus AS gpus, _runs.batch_size AS batch_size, _runs.seq_len AS seq_len, _runs.source_len AS source_len, _runs.dtype AS dtype, _runs.mixed_precision AS mixed_precision, _runs.optim AS optim, _runs.gradient_checkpointing AS gradient_checkpointing, _runs.attn_implementation AS attn_implementation, _runs.padding AS padding, _runs.max_grad_norm AS max_grad_norm, _runs.gradient_accumulation_steps AS gradient_accumulation_steps, _runs.use_liger_kernel AS use_liger_kernel, _runs.num_gpus AS num_gpus, _runs.strategy AS strategy, _runs.offload AS offload, _runs.image_tokens AS image_tokens, _runs.keep_outputs AS keep_outputs, _runs.peft AS peft, _runs.quantization AS quantization, _runs.stack AS stack, _runs.applied_settings AS applied_settings, _runs.settings_key AS settings_key, _runs.formula_version AS formula_version, _runs.hubvram_version AS hubvram_version, _runs.estimated_at AS estimated_at, _models.endpoint AS endpoint
FROM _estimates JOIN _runs ON _runs.id = _estimates.run_id JOIN _models ON _models.id = _runs.model_id;

CREATE VIEW estimates AS SELECT _models.repo_id AS repo_id, _models.commit_sha AS commit_sha, _estimates.method AS method, _estimates.status AS status, _estimates.reason AS reason, _estimates.trainable_parameters AS trainable_parameters, _estimates.peak_allocated_bytes AS peak_allocated_bytes, round(CAST(_estimates.peak_allocated_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS peak_allocated_gib, _estimates.peak_reserved_bytes AS peak_reserved_bytes, round(CAST(_estimates.peak_reserved_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS peak_reserved_gib, _estimates.total_bytes AS total_bytes, round(CAST(_estimates.total_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS total_gib, _estimates.peak_phase AS peak_phase, _estimates.weights_bytes AS weights_bytes, round(CAST(_estimates.weights_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS weights_gib, _estimates.gradients_bytes AS gradients_bytes, round(CAST(_estimates.gradients_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS gradients_gib, _estimates.optimizer_bytes AS optimizer_bytes, round(CAST(_estimates.optimizer_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS optimizer_gib, _estimates.activations_bytes AS activations_bytes, round(CAST(_estimates.activations_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS activations_gib, _estimates.temporary_bytes AS temporary_bytes, round(CAST(_estimates.temporary_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS temporary_gib, _estimates.loaded_bytes AS loaded_bytes, round(CAST(_estimates.loaded_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS loaded_gib, _estimates.steady_bytes AS steady_bytes, round(CAST(_estimates.steady_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS steady_gib, _estimates.not_counted AS not_counted, _estimates.gpus AS gpus, _runs.batch_size AS batch_size, _runs.seq_len AS seq_len, _runs.source_len AS source_len, _runs.dtype AS dtype, _runs.mixed_precision AS mixed_precision, _runs.optim AS optim, _runs.gradient_checkpointing AS gradient_checkpointing, _runs.attn_implementation AS attn_implementation, _runs.padding AS padding, _runs.max_grad_norm AS max_grad_norm, _runs.gradient_accumulation_steps AS gradient_accumulation_steps, _runs.use_liger_kernel AS use_liger_kernel, _runs.num_gpus AS num_gpus, _runs.strategy AS strategy, _runs.offload AS offload, _runs.image_tokens AS image_tokens, _runs.keep_outputs AS keep_outputs, _runs.peft AS peft, _runs.quantization AS quantization, _runs.stack AS stack, _runs.applied_settings AS applied_settings, _runs.settings_key AS settings_key, _runs.formula_version AS formula_version, _runs.hubvram_version AS hubvram_version, _runs.estimated_at AS estimated_at, _models.endpoint AS endpoint
FROM _estimates JOIN _runs ON _runs.id = _estimates.run_id JOIN _models ON _models.id = _runs.model_id
WHERE _models.is_newest IS 1 AND _runs.is_newest IS 1;

CREATE VIEW files AS SELECT _models.repo_id AS repo_id, _files.path AS path, _files.role AS role, _files.reason AS reason, _files.size AS size, round(CAST(_files.size / (1073741824.0 + 0.0) AS NUMERIC), 3) AS size_gib, _files.header_bytes AS header_bytes, _files.content_hash AS content_hash, _models.commit_sha AS commit_sha, _models.endpoint AS endpoint
FROM _files JOIN _models ON _models.id = _files.model_id
WHERE _models.is_newest IS 1;

CREATE VIEW model_history AS SELECT _models.repo_id AS repo_id, _models.commit_sha AS commit_sha, _models.author AS author, _models.model_type AS model_type, _models.architecture AS architecture, _models.family AS family, _models.parameters AS parameters, _models.dtype AS dtype, _models.stored_bytes AS stored_bytes, round(CAST(_models.stored_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS stored_gib, _models.logical_parameters AS logical_parameters, _models.logical_note AS logical_note, _models.tensor_count AS tensor_count, _models.max_seq_len AS max_seq_len, _models.gated AS gated, _models.library_name AS library_name, _models.pipeline_tag AS pipeline_tag, _models.fetched_at AS fetched_at, _models.hub_version AS hub_version, _models.hubvram_version AS hubvram_version, _models.endpoint AS endpoint, _models.metadata AS metadata, _models.warnings AS warnings, _models.config AS config, _models.is_newest AS is_newest
FROM _models;

CREATE VIEW models AS SELECT _models.repo_id AS repo_id, _models.commit_sha AS commit_sha, _models.author AS author, _models.model_type AS model_type, _models.architecture AS architecture, _models.family AS family, _models.parameters AS parameters, _models.dtype AS dtype, _models.stored_bytes AS stored_bytes, round(CAST(_models.stored_bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS stored_gib, _models.logical_parameters AS logical_parameters, _models.logical_note AS logical_note, _models.tensor_count AS tensor_count, _models.max_seq_len AS max_seq_len, _models.gated AS gated, _models.library_name AS library_name, _models.pipeline_tag AS pipeline_tag, _models.fetched_at AS fetched_at, _models.hub_version AS hub_version, _models.hubvram_version AS hubvram_version, _models.endpoint AS endpoint, _models.metadata AS metadata, _models.warnings AS warnings, _models.config AS config
FROM _models
WHERE _models.is_newest IS 1;

CREATE VIEW parameters AS SELECT _models.repo_id AS repo_id, _parameters.dtype AS dtype, _parameters.count AS count, _parameters.bytes AS bytes, round(CAST(_parameters.bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS gib, _models.commit_sha AS commit_sha, _models.endpoint AS endpoint
FROM _parameters JOIN _models ON _models.id = _parameters.model_id
WHERE _models.is_newest IS 1;

CREATE VIEW scans AS SELECT _scans.id AS id, _scans.started_at AS started_at, _scans.finished_at AS finished_at, _scans.status AS status, _scans.total AS total, _scans.ok AS ok, _scans.failed AS failed, _scans.settings AS settings, _scans.hubvram_version AS hubvram_version
FROM _scans;

CREATE VIEW tensors AS SELECT _models.repo_id AS repo_id, _tensors.name AS name, _tensors.dtype AS dtype, _tensors.shape AS shape, _tensors.count AS count, _tensors.parameters AS parameters, _tensors.bytes AS bytes, round(CAST(_tensors.bytes / (1073741824.0 + 0.0) AS NUMERIC), 3) AS gib, _models.commit_sha AS commit_sha, _models.endpoint AS endpoint
FROM _tensors JOIN _models ON _models.id = _tensors.model_id
WHERE _models.is_newest IS 1;


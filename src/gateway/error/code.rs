//! Codes of errors: what programs go by, in the order of the table in `docs/api.md`.

use http::StatusCode;

/// Makes the enum from its table: a variant, its text in the API, and the statuses that it comes with, the usual one
/// first.
macro_rules! error_codes {
    ($($variant:ident, $text:literal, $statuses:expr;)*) => {
        /// The kind of an error. A code never changes its meaning; new ones may come.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "docs/api.md says what each means, and a test holds the two together")]
        pub enum ErrorCode {
            $($variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the code as the API writes it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Returns the statuses that come with it, the usual one first.
            pub fn statuses(self) -> &'static [u16] {
                match self {
                    $(Self::$variant => &$statuses,)*
                }
            }
        }
    };
}

error_codes! {
    InvalidJson, "invalid_json", [400];
    InvalidRequest, "invalid_request", [400];
    InvalidQuery, "invalid_query", [400, 422];
    InvalidPath, "invalid_path", [400];
    BadRequest, "bad_request", [400];
    HeadTooLarge, "head_too_large", [431];
    HeadTooSlow, "head_too_slow", [408];
    BadVersion, "bad_version", [505];
    BadCoding, "bad_coding", [501];
    LoopDetected, "loop_detected", [508];
    NotAProxy, "not_a_proxy", [405];
    BadBody, "bad_body", [400];
    BodyStalled, "body_stalled", [408];
    BodyTooLarge, "body_too_large", [413];
    NoIntent, "no_intent", [400];
    Unauthorized, "unauthorized", [401];
    ForeignOrigin, "foreign_origin", [403];
    UnknownHost, "unknown_host", [421];
    UnsupportedMediaType, "unsupported_media_type", [415];
    TooManyAttempts, "too_many_attempts", [429];
    ApiClosed, "api_closed", [403];
    RouteNotFound, "route_not_found", [404];
    NoUi, "no_ui", [404];
    MethodNotAllowed, "method_not_allowed", [405];
    FunctionNotFound, "function_not_found", [404];
    NothingBefore, "nothing_before", [409];
    RevisionNotFound, "revision_not_found", [404];
    RevisionWanted, "revision_wanted", [409];
    NamespaceNotFound, "namespace_not_found", [404];
    NamespaceExists, "namespace_exists", [409];
    NamespaceInUse, "namespace_in_use", [409];
    SecretNotFound, "secret_not_found", [404, 400];
    SecretExists, "secret_exists", [409];
    SecretInUse, "secret_in_use", [409];
    SecretTooLarge, "secret_too_large", [413];
    ExportTooLarge, "export_too_large", [413];
    TooManySecrets, "too_many_secrets", [507];
    SecretsFailed, "secrets_failed", [500];
    HandlerNotFound, "handler_not_found", [404, 400];
    WrongDigest, "wrong_digest", [400];
    BadHandler, "bad_handler", [400];
    HandlerTooLarge, "handler_too_large", [413];
    QueueFull, "queue_full", [429];
    QueueFailed, "queue_failed", [500];
    NoSchedule, "no_schedule", [409];
    CallNotFound, "call_not_found", [404];
    CallEnded, "call_ended", [409];
    CallEnding, "call_ending", [503];
    CallFailed, "call_failed", [502];
    AnswerNotFound, "answer_not_found", [404];
    BadCallbackUrl, "bad_callback_url", [400];
    HandlersFailed, "handlers_failed", [500];
    ImageNotFound, "image_not_found", [400, 404];
    ImageInUse, "image_in_use", [409];
    ImageNotLoaded, "image_not_loaded", [400];
    RegistryUnauthorized, "registry_unauthorized", [400];
    RegistryUnreachable, "registry_unreachable", [502];
    WrongPlatform, "wrong_platform", [400];
    NoWatchdog, "no_watchdog", [500];
    NoCommand, "no_command", [400];
    BadImage, "bad_image", [400];
    ContainerdUnreachable, "containerd_unreachable", [503];
    ContainerdTimeout, "containerd_timeout", [504];
    ContainerdFailed, "containerd_failed", [500];
    ContainerNotFound, "container_not_found", [500];
    StoreFailed, "store_failed", [500, 503];
    StoreUnusable, "store_unusable", [409];
    StateMissing, "state_missing", [503];
    NothingSetAside, "nothing_set_aside", [404];
    DiskFull, "disk_full", [507, 503];
    DiskFailed, "disk_failed", [500];
    Busy, "busy", [503];
    ShuttingDown, "shutting_down", [503];
    Internal, "internal", [500];
    FunctionFailed, "function_failed", [503];
    CallerGone, "caller_gone", [499];
    BackingOff, "backing_off", [503];
    TooManyWaiting, "too_many_waiting", [503];
    NoReplicaInTime, "no_replica_in_time", [504];
    NoAnswerInTime, "no_answer_in_time", [504];
    FunctionUnreachable, "function_unreachable", [502];
    BadAnswer, "bad_answer", [502];
}

impl ErrorCode {
    /// Returns the status that usually comes with it.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.statuses()[0]).expect("a number of three digits")
    }
}

//! Makes a replica: snapshot, container, task.
//!
//! The snapshot carries the replica's labels and is a root for containerd's garbage collection, so
//! that it neither vanishes before there is a container, nor is forgotten if there never is one.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use containerd_client::services::v1::container::Runtime as ShimRuntime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::{MountsRequest, PrepareSnapshotRequest};
use containerd_client::services::v1::{Container, CreateContainerRequest, CreateTaskRequest};
use containerd_client::types::Mount;
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use super::client::already_exists;
use super::spec::{self, Inputs};
use super::user::User;
use super::{Containerd, MAX_USERS, lock, rootfs};
use crate::runtime::{ContainerRequest, LayerRequest, RuntimeError};
use model::function::{ImageRef, ReplicaId};

const SHIM: &str = "io.containerd.runc.v2";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";
/// The extension of a container that holds its function's record, and the type of its value.
pub(super) const RECORD: &str = "ingle.function.record";
/// Keeps a snapshot from being collected for as long as it has the label.
const GC_ROOT: &str = "containerd.io/gc.root";

/// The part of the shim's `containerd.runc.v1.Options` that is set.
#[derive(Clone, PartialEq, Message)]
struct Options {
    /// The OCI runtime, by name or path.
    #[prost(string, tag = "6")]
    binary_name: String,
}

/// Why an attempt to make a replica failed.
enum Failure {
    /// Something of that id is there.
    LeftOver,
    Error(RuntimeError),
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::Error(error)
    }
}

impl Containerd {
    /// See [`Runtime::create`](crate::runtime::Runtime::create).
    pub(super) async fn create_replica(&self, request: &ContainerRequest) -> Result<(), RuntimeError> {
        // What can be refused is refused before anything is made.
        spec::command(request)?;
        let mut result = self.make(request).await;
        if let Err(Failure::LeftOver) = result {
            tracing::warn!(replica = %request.id, "removing what was left of a replica of this id");
            self.remove_replica(&request.id).await?;
            result = self.make(request).await;
        }
        let error = match result {
            Ok(()) => return Ok(()),
            Err(Failure::Error(error)) => error,
            Err(Failure::LeftOver) => RuntimeError::failed(
                format!("making replica {}", request.id),
                "somebody else makes a replica of the same id",
            ),
        };
        if let Err(undo) = self.remove_replica(&request.id).await {
            tracing::warn!(replica = %request.id, error = %undo, "a failed start could not be taken back");
        }
        Err(error)
    }

    async fn make(&self, request: &ContainerRequest) -> Result<(), Failure> {
        let volumes = &request.image.resolved.config.volumes;
        let mounts = match self.remembered_user(request).filter(|_| volumes.is_empty()) {
            Some(user) => {
                let document = self.document(request, &user, &[])?;
                // Both to their end, also when one fails: what is cut off may still be made, after it
                // was taken back.
                let (mounts, created) =
                    tokio::join!(self.layer(request), self.create_container(request, document));
                created?;
                mounts?
            }
            None => {
                let mounts = self.layer(request).await?;
                let user = match self.remembered_user(request) {
                    Some(user) => user,
                    None => self.look_up_user(request, &mounts).await?,
                };
                let volumes = make_volumes(request, &mounts).await?;
                self.create_container(request, self.document(request, &user, &volumes)?).await?;
                mounts
            }
        };
        self.create_task(request, mounts).await
    }

    /// The layer that was prepared, or a new one.
    async fn layer(&self, request: &ContainerRequest) -> Result<Vec<Mount>, RuntimeError> {
        match self.mounts(&request.id).await? {
            Some(mounts) => Ok(mounts),
            None => self.make_layer(&request.layer()).await,
        }
    }

    /// A writable layer on top of the image. Also under a read-only root: the runtime makes the
    /// mount points in it that the image lacks, before it makes it read-only.
    pub(super) async fn make_layer(&self, request: &LayerRequest) -> Result<Vec<Mount>, RuntimeError> {
        let mut labels: std::collections::HashMap<_, _> = request.labels().into_iter().collect();
        labels.insert(GC_ROOT.into(), jiff::Timestamp::now().to_string());
        let prepare = PrepareSnapshotRequest {
            snapshotter: self.images.snapshotter().to_owned(),
            key: request.id.to_string(),
            parent: request.image.chain_id.clone(),
            labels,
        };
        let answer = self.client.snapshots().prepare(self.client.request(prepare)).await;
        match answer {
            Ok(answer) => Ok(answer.into_inner().mounts),
            Err(status) if status.code() == Code::NotFound => Err(RuntimeError::NotFound {
                what: format!("unpacked image {} ({})", request.spec.image, request.image.chain_id),
            }),
            Err(status) if already_exists(&status) => self.mounts(&request.id).await?.ok_or_else(|| {
                RuntimeError::failed(
                    format!("making the snapshot of replica {}", request.id),
                    "one of that name was there, and was removed in the same moment",
                )
            }),
            Err(status) => {
                Err(self.client.error(format!("making the snapshot of replica {}", request.id), status))
            }
        }
    }

    /// How a replica's layer is mounted, if it is there.
    pub(super) async fn mounts(&self, id: &ReplicaId) -> Result<Option<Vec<Mount>>, RuntimeError> {
        let look = MountsRequest { snapshotter: self.images.snapshotter().to_owned(), key: id.to_string() };
        let answer = self.client.snapshots().mounts(self.client.request(look)).await;
        let found = self.client.found(answer, format_args!("looking for the snapshot of replica {id}"))?;
        Ok(found.map(|answer| answer.mounts))
    }

    async fn create_container(&self, request: &ContainerRequest, document: Vec<u8>) -> Result<(), Failure> {
        let options = self.oci_runtime.clone().map(|binary_name| Any {
            type_url: OPTIONS_TYPE.into(),
            value: Options { binary_name }.encode_to_vec(),
        });
        let container = Container {
            id: request.id.to_string(),
            labels: request.labels().into_iter().collect(),
            image: request.image.resolved.image.canonical(),
            runtime: Some(ShimRuntime { name: SHIM.into(), options }),
            spec: Some(Any { type_url: SPEC_TYPE.into(), value: document }),
            snapshotter: self.images.snapshotter().to_owned(),
            snapshot_key: request.id.to_string(),
            // Labels hold 4 KiB.
            extensions: [(RECORD.into(), Any { type_url: RECORD.into(), value: request.record.clone() })]
                .into(),
            ..Container::default()
        };
        let create = self.client.request(CreateContainerRequest { container: Some(container) });
        let answer = ContainersClient::new(self.client.channel()).create(create).await;
        answer.map(drop).map_err(|status| self.failure(request, "the container", status))
    }

    async fn create_task(&self, request: &ContainerRequest, rootfs: Vec<Mount>) -> Result<(), Failure> {
        let create = CreateTaskRequest {
            container_id: request.id.to_string(),
            rootfs,
            stdout: request.stdio.stdout.display().to_string(),
            stderr: request.stdio.stderr.display().to_string(),
            ..CreateTaskRequest::default()
        };
        let answer = self.tasks().create(self.client.process_request(create)).await;
        answer.map(drop).map_err(|status| match unrunnable(status.message()) {
            Some(reason) => {
                let image = &request.spec.image;
                RuntimeError::BadRequest(format!("image {image} cannot run: {reason}")).into()
            }
            None => self.failure(request, "the task", status),
        })
    }

    fn failure(&self, request: &ContainerRequest, what: &str, status: Status) -> Failure {
        if already_exists(&status) {
            return Failure::LeftOver;
        }
        Failure::Error(self.client.error(format!("making {what} of replica {}", request.id), status))
    }

    fn document(
        &self,
        request: &ContainerRequest,
        user: &User,
        volumes: &[PathBuf],
    ) -> Result<Vec<u8>, RuntimeError> {
        let document = spec::document(&Inputs {
            request,
            user,
            volumes,
            capabilities: &self.capabilities,
            namespace: &self.namespace,
            unified: self.hierarchies.unified(),
            limits_swap: self.hierarchies.limits_swap(),
            masked: &self.masked,
            open_files: self.open_files,
        })?;
        serde_json::to_vec(&document).map_err(|error| {
            RuntimeError::failed(format!("writing the spec of replica {}", request.id), error)
        })
    }

    fn remembered_user(&self, request: &ContainerRequest) -> Option<User> {
        User::known(&request.image.resolved.config.user)
            .or_else(|| lock(&self.users).get(&user_key(request)).cloned())
    }

    async fn look_up_user(&self, request: &ContainerRequest, mounts: &[Mount]) -> Result<User, RuntimeError> {
        let image = &request.spec.image;
        let named = &request.image.resolved.config.user;
        let user = match rootfs::read_files(mounts.to_vec(), ["/etc/passwd", "/etc/group"]).await {
            Ok([passwd, group]) => User::lookup(named, &passwd, &group)
                .map_err(|reason| RuntimeError::BadRequest(format!("image {image} cannot run: {reason}")))?,
            // Root is root also where its groups cannot be read.
            Err(error) if named.is_empty() => {
                tracing::warn!(%image, %error, "its root is in no other group");
                User::root()
            }
            Err(error) => {
                return Err(RuntimeError::failed(format!("looking for the user of image {image}"), error));
            }
        };
        let mut users = lock(&self.users);
        if users.len() >= MAX_USERS {
            users.clear();
        }
        users.insert(user_key(request), user.clone());
        Ok(user)
    }
}

/// Makes the directories that the image declares as volumes and may not have; returns where they are.
async fn make_volumes(request: &ContainerRequest, mounts: &[Mount]) -> Result<Vec<PathBuf>, RuntimeError> {
    let declared = &request.image.resolved.config.volumes;
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let image = &request.spec.image;
    match rootfs::make_directories(mounts.to_vec(), declared.clone()).await {
        Ok(made) => Ok(made),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            tracing::warn!(%image, %error, "the directories of its volumes are those that its layers have");
            Ok(Vec::new())
        }
        Err(error) => Err(volume_error(image, error)),
    }
}

fn volume_error(image: &ImageRef, error: io::Error) -> RuntimeError {
    match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::InvalidFilename => {
            RuntimeError::BadRequest(format!("image {image} cannot run: making its volumes: {error}"))
        }
        // The image is not at fault: the disk may be full.
        _ => RuntimeError::failed(format!("making the volumes of image {image}"), error),
    }
}

/// What runc or crun says of a command that cannot be executed, out of all that they say.
fn unrunnable(message: &str) -> Option<&str> {
    let start = ["exec: \"", "executable file "].iter().find_map(|phrase| message.find(phrase))?;
    let reason = &message[start..];
    Some(reason.strip_suffix(": unknown").unwrap_or(reason))
}

/// The layers of an image never change under a chain id, so what was looked up stays true.
fn user_key(request: &ContainerRequest) -> (String, String) {
    (request.image.chain_id.clone(), request.image.resolved.config.user.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_cannot_be_made_is_the_images_fault_only_if_its_path_is() {
        let image = "a/b:1".parse().expect("a name");
        for (kind, is_images) in [
            (ErrorKind::NotADirectory, true),
            (ErrorKind::InvalidFilename, true),
            (ErrorKind::StorageFull, false),
            (ErrorKind::OutOfMemory, false),
            (ErrorKind::Other, false),
        ] {
            let error = volume_error(&image, io::Error::new(kind, "/data"));
            assert_eq!(matches!(error, RuntimeError::BadRequest(_)), is_images, "{kind:?}: {error:?}");
        }
    }

    #[test]
    fn a_command_that_cannot_run_is_told_apart() {
        let runc = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
            container process: exec: \"/no\": stat /no: no such file or directory: unknown";
        assert_eq!(unrunnable(runc), Some("exec: \"/no\": stat /no: no such file or directory"));
        let crun = "failed to create shim task: OCI runtime create failed: executable file `/no` not found: \
            No such file or directory: unknown";
        assert_eq!(unrunnable(crun), Some("executable file `/no` not found: No such file or directory"));
        assert_eq!(unrunnable("failed to create shim task: failed to mount rootfs component"), None);
    }

    #[test]
    fn options_are_encoded_as_the_shim_reads_them() {
        // Field 6, length-delimited.
        assert_eq!(Options { binary_name: "crun".into() }.encode_to_vec(), b"\x32\x04crun");
    }
}

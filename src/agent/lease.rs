//! Which of an agent's replicas acts: a Lease in the member.
//!
//! Expiry is judged by watching the Lease stand still on one's own clock, never by the times written in it: clocks of
//! nodes disagree. A holder that cannot renew stops before anybody else may begin.

use std::time::Duration;

use http::{Request, header::CONTENT_TYPE};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::secrets::is_code;

/// Without a renewal for as long, another may take it.
const LEASE: Duration = Duration::from_secs(30);
/// Without a renewal for as long, the holder stops. The difference is for calls that are still under way.
const HOLD: Duration = Duration::from_secs(20);
const RENEW: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Lease {
    client: Client,
    namespace: String,
    holder: String,
}

/// The Lease as it was seen.
struct Seen {
    version: String,
    holder: String,
}

impl Lease {
    /// `holder` must be another in each process.
    pub fn new(client: Client, namespace: &str, holder: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), holder: holder.to_owned() }
    }

    /// Waits until this process holds the Lease; false if `stop` came first.
    pub async fn acquire(&self, stop: &CancellationToken) -> bool {
        let mut still: Option<(String, Instant)> = None;
        loop {
            match self.try_acquire(&mut still).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => warn!(%error, "the lease cannot be read or taken"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    async fn try_acquire(&self, still: &mut Option<(String, Instant)>) -> Result<bool, kube::Error> {
        let Some(seen) = self.look().await? else { return self.write(None, &self.holder).await };
        let since = match still {
            Some((version, since)) if *version == seen.version => *since,
            _ => {
                *still = Some((seen.version.clone(), Instant::now()));
                Instant::now()
            }
        };
        let is_free = seen.holder.is_empty() || seen.holder == self.holder || since.elapsed() >= LEASE;
        if !is_free {
            info!(holder = seen.holder, "another replica acts");
            return Ok(false);
        }
        self.write(Some(&seen), &self.holder).await
    }

    /// Renews until it is lost or `stop` comes; then gives it up. Cancels `acting` when it is lost.
    pub async fn hold(&self, acting: CancellationToken, stop: CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEW) => {}
                () = stop.cancelled() => return,
            }
            let left = HOLD.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => break,
                Ok(Err(error)) if renewed.elapsed() + RENEW < HOLD => warn!(%error, "the lease was not renewed"),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        warn!("the lease is lost: this replica stops acting");
        acting.cancel();
    }

    /// For the next one to begin at once.
    pub async fn release(&self) {
        if let Ok(Some(seen)) = self.look().await
            && seen.holder == self.holder
        {
            let _ = self.write(Some(&seen), "").await;
        }
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        match self.look().await? {
            Some(seen) if seen.holder == self.holder => self.write(Some(&seen), &self.holder).await,
            _ => Ok(false),
        }
    }

    async fn look(&self) -> Result<Option<Seen>, kube::Error> {
        match self.call(Request::get(self.path("/hanse-agent")), None).await {
            Ok(lease) => {
                let text =
                    |pointer: &str| lease.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
                Ok(Some(Seen { version: text("/metadata/resourceVersion"), holder: text("/spec/holderIdentity") }))
            }
            Err(error) if is_code(&error, 404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// False where somebody else was faster.
    async fn write(&self, seen: Option<&Seen>, holder: &str) -> Result<bool, kube::Error> {
        let now = jiff::Timestamp::now();
        let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": LEASE.as_secs(), "renewTime": format!("{now:.6}")});
        let mut metadata = json!({"name": "hanse-agent", "namespace": self.namespace});
        let request = match seen {
            Some(seen) => {
                metadata["resourceVersion"] = json!(seen.version);
                Request::put(self.path("/hanse-agent"))
            }
            None => Request::post(self.path("")),
        };
        let lease =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec});
        match self.call(request, Some(&lease)).await {
            Ok(_) => Ok(true),
            Err(error) if is_code(&error, 409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases{name}", self.namespace)
    }

    async fn call(&self, request: http::request::Builder, body: Option<&Value>) -> Result<Value, kube::Error> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = request.header(CONTENT_TYPE, "application/json").body(body).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }
}

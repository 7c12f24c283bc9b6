# A managed group of three machines. Before the first `apply`:
#
#   muster token new | tr -d '\n' | gcloud secrets create muster-token --data-file=-
terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.0"
    }
  }
}

variable "image" {
  description = "Image that carries muster and its unit"
  type        = string
}

variable "zone" {
  type = string
}

variable "subnetwork" {
  type = string
}

variable "founding" {
  description = "auto for the first apply; never from then on"
  type        = string
  default     = "auto"
}

resource "google_service_account" "muster" {
  account_id = "muster"
}

resource "google_secret_manager_secret_iam_member" "token" {
  secret_id = "muster-token"
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.muster.email}"
}

# To find the machines of the own group, and the largest size that an autoscaler may give it.
resource "google_project_iam_custom_role" "discovery" {
  role_id     = "musterDiscovery"
  title       = "Muster discovery"
  permissions = ["compute.instances.list", "compute.instances.get", "compute.autoscalers.list"]
}

resource "google_project_iam_member" "discovery" {
  project = google_project_iam_custom_role.discovery.project
  role    = google_project_iam_custom_role.discovery.id
  member  = "serviceAccount:${google_service_account.muster.email}"
}

resource "google_compute_instance_template" "muster" {
  name_prefix  = "muster-"
  machine_type = "e2-medium"
  disk {
    source_image = var.image
    disk_size_gb = 20
  }
  network_interface {
    subnetwork = var.subnetwork
  }
  metadata = {
    user-data = replace(file("${path.module}/user-data.yaml"), "servers = 3", "servers = 3\n      founding = \"${var.founding}\"")
  }
  service_account {
    email  = google_service_account.muster.email
    scopes = ["cloud-platform"]
  }
  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_instance_group_manager" "muster" {
  name               = "muster"
  base_instance_name = "muster"
  zone               = var.zone
  target_size        = 3
  version {
    instance_template = google_compute_instance_template.muster.id
  }
  # A new template changes no machine by itself; `gcloud compute instance-groups managed recreate-instances` does, one by one.
  # No auto-healing: a machine that waits for the others would be replaced, and would wait anew.
  update_policy {
    type                  = "OPPORTUNISTIC"
    minimal_action        = "REPLACE"
    replacement_method    = "RECREATE"
    max_surge_fixed       = 0
    max_unavailable_fixed = 1
  }
}
